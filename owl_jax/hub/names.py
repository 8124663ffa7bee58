"""Names of repositories on Hugging Face's hub.

    ORG/NAME[@REVISION]                              a model, where a directory is expected
    hf://[datasets/]ORG/NAME[@REVISION][/PATH]       a model, a data set, or a part of either

A revision is a branch, a tag or a commit; by default the branch main. A name without hf:// is the
hub's only if no file or directory here has it. Paths that are absolute, begin with a dot or ~, or
have more than one slash before the @ are never the hub's.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from urllib.parse import unquote

from owl_jax.errors import UserError, shown

PROTOCOL = "hf://"
COMMIT = re.compile(r"[0-9a-f]{40}")

_PART = r"\w(?:[\w.-]*\w)?"
_REPO = rf"(?P<repo>{_PART}/{_PART})"
_PLAIN = re.compile(rf"{_REPO}(?:@(?P<revision>.+))?", re.ASCII)
# Revisions with a slash are pull requests and conversions; other slashes are written %2F.
_REVISION = r"(?P<revision>refs/pr/\d+|refs/convert/[\w.-]+|[^/]+)"
_URL = re.compile(
    rf"{PROTOCOL}(?:(?P<kind>model|dataset)s/)?(?!(?:model|dataset|space|bucket)s/)"
    rf"{_REPO}(?:@{_REVISION})?(?:/(?P<path>.*))?",
    re.ASCII,
)
_LONGEST = 96  # characters of ORG/NAME

# A directory of huggingface_hub's cache: models--ORG--NAME/snapshots/COMMIT.
_REPO_FOLDER = re.compile(r"(model|dataset)s--(.+?)--(.+)")


@dataclass(frozen=True)
class HubName:
    """A repository, or a part of one.

    repo: ORG/NAME. revision: None is the default branch. kind: "model" or "dataset". path: of a
    file or folder in it, "" for the whole.
    """

    repo: str
    revision: str | None = None
    kind: str = "model"
    path: str = ""

    def __str__(self) -> str:
        """The name as users write it, which `parse_name` reads."""
        if self.kind == "model" and not self.path:
            return self.repo + ("" if self.revision is None else f"@{self.revision}")
        kind = "" if self.kind == "model" else f"{self.kind}s/"
        revision = "" if self.revision is None else f"@{self.revision.replace('/', '%2F')}"
        return f"{PROTOCOL}{kind}{self.repo}{revision}" + (f"/{self.path}" if self.path else "")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, so that the name means the same for ever."""
        return self.revision is not None and COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str) -> HubName:
        """The same at a commit."""
        return replace(self, revision=commit)

    def directory(self, cache: Path) -> Path:
        """Where huggingface_hub's cache has the repository. The revision must be a commit."""
        assert self.is_pinned and self.revision
        folder = f"{self.kind}s--{self.repo.replace('/', '--')}"
        return cache / folder / "snapshots" / self.revision


def parse_name(value: str | os.PathLike[str]) -> HubName | None:
    """The name that a value has the form of; None for a path.

    Raises UserError for a value with hf:// that is no name.
    """
    if not isinstance(value, str):
        return None
    if value.startswith(PROTOCOL):
        found = _URL.fullmatch(value)
        if found is None or not _is_allowed(found["repo"]):
            raise UserError(
                f"{shown(value, 200)}: expected {PROTOCOL}ORG/NAME[@REVISION][/PATH], or "
                f"{PROTOCOL}datasets/ORG/NAME[@REVISION][/PATH] for a data set"
            )
        revision = found["revision"] and unquote(found["revision"])
        path = (found["path"] or "").strip("/")
        if ".." in path.split("/"):
            raise UserError(f"{shown(value, 200)}: the path leaves the repository")
        return HubName(found["repo"], revision, found["kind"] or "model", path)
    found = _PLAIN.fullmatch(value)
    if found is None or not _is_allowed(found["repo"]):
        return None
    return HubName(found["repo"], found["revision"])


def _is_allowed(repo: str) -> bool:
    """The hub's rules beyond the characters of a name."""
    return (
        len(repo) <= _LONGEST
        and not any(text in repo for text in ("--", ".."))
        and not repo.endswith(".git")
    )


def on_hub(value: str | os.PathLike[str]) -> HubName | None:
    """The name of a repository, or None for a path. A file or directory of the same name wins."""
    name = parse_name(value)
    return None if name is None or is_ambiguous(value) else name


def is_ambiguous(value: str | os.PathLike[str]) -> bool:
    """Whether a value is a file or directory here, but would else be a name of the hub."""
    is_plain = parse_name(value) is not None and not str(value).startswith(PROTOCOL)
    return is_plain and os.path.lexists(value)


def recorded_name(path: str | os.PathLike[str]) -> str:
    """What to record of a model's directory: ORG/NAME@COMMIT if it is in the hub's cache."""
    name = _in_cache(path)
    return str(path if name is None else name)


def short_name(value: str | os.PathLike[str]) -> str:
    """What a list of models calls one: the last part of its name or path."""
    name = on_hub(value) or _in_cache(value)
    if name is None:
        return Path(value).resolve().name
    return (name.path or name.repo).rpartition("/")[2]


def _in_cache(path: str | os.PathLike[str]) -> HubName | None:
    """The name of a directory of huggingface_hub's cache."""
    parts = PurePath(path).parts
    for index in range(len(parts) - 2):
        found = _REPO_FOLDER.fullmatch(parts[index])
        if found and parts[index + 1] == "snapshots":
            kind, org, name = found.groups()
            inner = "/".join(parts[index + 3 :])
            return HubName(f"{org}/{name}", parts[index + 2], kind, inner)
    return None
