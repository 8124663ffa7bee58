"""Stand-ins for the tools that the launchers call: they record their arguments and play a part."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
LAUNCH = REPOSITORY / "launch"

# What a launcher may call beside the stubs. A tool that is neither is not found, and so a test can
# never reach the cloud, even where its tools are installed.
TOOLS = [
    "bash",
    "cat",
    "cp",
    "dirname",
    "env",
    "flock",
    "grep",
    "gzip",
    "head",
    "hostname",
    "kill",
    "mkdir",
    "mv",
    "rm",
    "sed",
    "seq",
    "setsid",
    "sleep",
    "tail",
    "tar",
    "touch",
    "true",
    "wc",
]

# Fields and calls are ended by what no argument contains. A call is one write: the commands of a
# pipe record theirs at the same time.
RECORD = r"""#!/usr/bin/env bash
printf -v call '%%s\x1f' %s "$@"
printf '%%s\x1e' "$call" >>%s
%s
"""


class Stubs:
    """Stubs below `folder`, and the scripts that are run with them.

    Attributes:
      folder: for whatever a test needs; also $HOME and $TMPDIR of the scripts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._record = folder / "calls"
        self._tools = folder / "tools"
        self._bin = folder / "bin"
        self._tools.mkdir(parents=True)
        self._bin.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, f"{tool} is needed to test the launchers"
            (self._tools / tool).symlink_to(found)

    def add(self, name: str, part: str = "", path: Path | None = None) -> Path:
        """Puts a stub on the PATH, or at `path`; `part` is bash, run after its call is recorded."""
        path = path or self._bin / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(RECORD % (name, self._record, part))
        path.chmod(0o755)
        return path

    def calls(self, name: str | None = None) -> list[list[str]]:
        """The calls so far in order, each as [name, argument, ...]."""
        text = self._record.read_text() if self._record.exists() else ""
        calls = [call.split("\x1f")[:-1] for call in text.split("\x1e")[:-1]]
        return [call for call in calls if name in (None, call[0])]

    def forget(self) -> None:
        self._record.unlink(missing_ok=True)

    def environment(self, **variables: str) -> Mapping[str, str]:
        """What the scripts get: nothing of the test's own environment."""
        return {
            "PATH": f"{self._bin}:{self._tools}",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            **variables,
        }

    def start(self, *words: str | Path, **variables: str) -> subprocess.Popen[str]:
        """Starts a command; a script of launch/ by its name."""
        first = LAUNCH / words[0] if (LAUNCH / words[0]).is_file() else words[0]
        return subprocess.Popen(
            ["bash", first, *words[1:]],
            env=self.environment(**variables),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a process group of its own, for a test to interrupt
        )

    def run(self, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end; a script of launch/ by its name."""
        process = self.start(*words, **variables)
        stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)

    def replay(self, printed: str) -> list[list[str]]:
        """The calls that come of pasting what --dry-run has printed into a shell."""
        self.forget()
        script = self.folder / "pasted"
        script.write_text(printed)
        subprocess.run(
            ["bash", script], env=self.environment(), cwd=self.folder, check=True, timeout=60
        )
        return self.calls()


def wait_until(condition, process: subprocess.Popen[str] | None = None) -> None:
    """Waits until `condition()` is true, and not for ever."""
    for _ in range(600):
        if condition():
            return
        assert process is None or process.poll() is None, process.communicate()
        subprocess.run(["sleep", "0.05"], check=True)
    raise AssertionError("it did not happen within 30 seconds")


def assert_refused(result: subprocess.CompletedProcess[str], *words: str, status: int = 2) -> None:
    """One line on stderr that has these words, and nothing else."""
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("error: ")
    for word in words:
        assert word in result.stderr


# Arguments that a shell, ssh or Kubernetes would take apart if they were quoted any less.
TRAINING = [
    "--config=configs/stage2.py:llama",
    "--workdir=/data/runs/stage 2",
    "--config.data.mixture=(('a b.jsonl', 1.0), (\"it's $HOME.jsonl\", 2.0),)",
    "--config.rules=((r'lora/.*', 'lora'), (r'.*\\d$', 'frozen'))",
    "--config.note=*  `id` $(id) $$ ~ ! # & ; | <x> {a,b} [c] ü\\",
    "--config.empty=",
]
