"""SHA256SUMS: what coreutils reads and writes, what rots, and lists that lead astray."""

import hashlib
import os
import re
import shutil
import subprocess

import pytest

from owl_jax.checkpoint.checksums import SUMS_FILE, verify, write_checksums
from owl_jax.errors import UserError

FILES = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 40_000,
    "params/d/0a": b"numbers",
    "empty": b"",
    "back\\slash": b"1",
    "line\nbreak": b"2",
    "  blanks ": b"3",
    "é \udcff": b"4",
}


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "model"
    for name, content in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    write_checksums(path)
    return path


def _refused(directory):
    with pytest.raises(UserError) as told:
        verify(directory)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_coreutils_reads_what_is_written_and_writes_what_is_read(directory):
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", SUMS_FILE], cwd=directory, check=True)
    read = []
    verified = verify(directory, read.append)
    size = sum(map(len, FILES.values()))
    assert (verified.files, verified.nbytes, sum(read)) == (len(FILES), size, size)
    ours = (directory / SUMS_FILE).read_bytes()
    (directory / SUMS_FILE).unlink()
    for flag in ("--text", "--binary", "--tag"):
        command = f"find . -type f ! -name {SUMS_FILE} -exec sha256sum {flag} {{}} + > {SUMS_FILE}"
        subprocess.run(command, shell=True, cwd=directory, check=True)
        assert verify(directory).files == len(FILES)
        assert (directory / SUMS_FILE).read_bytes() != ours


def test_a_hash_that_is_known_is_taken(directory):
    known = {"config.json": "0" * 64}
    write_checksums(directory, known)
    assert "does not match its SHA256SUMS (1): config.json (differs)" in _refused(directory)


@pytest.mark.parametrize("name", FILES)
def test_one_bit_of_any_file_is_noticed(name, directory):
    content = bytearray(FILES[name]) or bytearray(1)
    content[len(content) // 2] ^= 4
    (directory / name).write_bytes(content)
    shown = name.replace("\n", "\\n").replace("\udcff", "\\udcff")
    assert f"SHA256SUMS (1): {shown} (differs); copy the directory again" in _refused(directory)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: (path / "config.json").unlink(), "config.json (missing)"),
        (lambda path: shutil.rmtree(path / "params"), "params/d/0a (missing)"),
        (lambda path: (path / "params" / "new").touch(), "params/new (not listed)"),
        (lambda path: (path / "added_tokens.json").touch(), "added_tokens.json (not listed)"),
        (lambda path: os.truncate(path / "model.safetensors", 100), "safetensors (differs)"),
        (lambda path: (path / SUMS_FILE).unlink(), "no SHA256SUMS to compare with"),
        (lambda path: (path / SUMS_FILE).write_bytes(b""), "lists no files"),
        (lambda path: (path / SUMS_FILE).write_bytes(b"\0" * 99), "line 1: "),
        (lambda path: os.truncate(path / SUMS_FILE, 100), "line 2: "),
    ],
)
def test_what_is_not_as_listed_is_named(spoil, words, directory):
    spoil(directory)
    assert words in _refused(directory)


@pytest.mark.parametrize("what", ["fifo", "folder", "list"])
def test_what_is_no_regular_file_is_not_waited_for(what, directory):
    place = directory / (SUMS_FILE if what == "list" else "config.json")
    place.unlink()
    os.mkfifo(place) if what != "folder" else place.mkdir()
    assert place.name in _refused(directory)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "params/../../outside", ".", "..", "a\\n/../../b"]
)
def test_a_list_stays_in_its_directory(name, directory, tmp_path):
    (tmp_path / "outside").write_bytes(b"x")
    digest = hashlib.sha256(b"x").hexdigest()
    with (directory / SUMS_FILE).open("a") as file:
        file.write(f"{digest}  {name}\n")
    assert "is not a path below the directory" in _refused(directory)


def test_two_hashes_of_a_file_are_refused(directory):
    with (directory / SUMS_FILE).open("a") as file:
        file.write(f"{'0' * 64}  ./config.json\n")
    assert "two hashes of 'config.json'" in _refused(directory)


def test_lists_of_others(tmp_path):
    """A list of the weights alone, hashes beside each, a list that the shell made too early."""
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    lists = {
        "SHA256SUMS": f"# made by hand\r\n{digest.upper()} *model.safetensors\r\n",
        "sha256sums.txt": f"{digest}  model.safetensors\n{'0' * 64}  sha256sums.txt\n",
        "model.safetensors.sha256": f"{digest}\n",
        "model.safetensors.sha256sum": f"{digest}  model.safetensors\n",
    }
    for name, text in lists.items():
        directory = tmp_path / name
        directory.mkdir()
        (directory / "model.safetensors").write_bytes(content)
        for other in ("README.md", "config.json", ".gitattributes"):
            (directory / other).touch()
        (directory / name).write_text(text)
        verified = verify(directory)
        assert (verified.files, verified.unlisted) == (1, ("README.md", "config.json"))
        assert str(verified).endswith("not listed, not checked: README.md, config.json")
        (directory / "model.safetensors").write_bytes(b"weightz")
        assert re.search(r"model\.safetensors \(differs\)", _refused(directory))


def test_links_are_followed_as_in_a_hub_cache(directory, tmp_path):
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for path in directory.iterdir():
        (linked / path.name).symlink_to(path)
    (directory / "params" / "loop").symlink_to(directory / "params")
    assert verify(linked).files == len(FILES)
