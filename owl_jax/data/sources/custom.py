"""Custom sources: data that is not in a file of a known format.

    @dataclass(frozen=True)
    class Sums(CustomSource):
        name = "sums"
        count: int = 1000

        def open(self):
            return [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(self.count)]

A mixture takes the object: config.data.mixture = ((Sums(), 1.0),). A Python file whose
`get_source()` returns one works wherever a data path is expected: "sums.py", or "sums.py:ARGUMENT"
for get_source(ARGUMENT).
"""

from __future__ import annotations

import dataclasses
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from owl_jax.data.sources.record import Record
from owl_jax.data.sources.values import record_from
from owl_jax.errors import BadData, UserError
from owl_jax.files import bad_file
from owl_jax.python_file import call_in_file

_PYTHON_FILE = re.compile(r"(.+?\.py)(?::(.*))?", re.DOTALL)


class Examples(Protocol):
    """Random access to examples, from several threads at once; a list will do."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """Example `index`, in any of the forms of sources/values.py.

        Media may also be PIL images, arrays uint8[H, W, 3], or bytes of files. BadData and OSError
        drop this example; any other exception ends the run.
        """
        ...


class CustomSource(ABC):
    """Describes a custom source; subclasses are preferably frozen dataclasses.

    name: its name in messages and pages; its records are NAME:0, NAME:1 and so on.
    """

    name: str

    @abstractmethod
    def open(self) -> Examples:
        """The examples. Every process that reads data calls this."""

    def content(self) -> Any:
        """A JSON value that identifies the examples; a run does not resume if it has changed.

        By default, the fields of the dataclass. Override it to leave out fields that may change,
        such as the folder of the data, or to add a hash of a file. A resumed run also compares the
        number of examples and some of them (sources/dataset_hash.py).

        Raises UserError for a class that is not a dataclass.
        """
        if not dataclasses.is_dataclass(self):
            raise UserError(
                f"source {self.name}: {type(self).__name__} is not a dataclass; make it one, or "
                "define content(), which returns a JSON value that identifies its examples"
            )
        return dataclasses.asdict(self)


class CustomRecords:
    """The records of a custom source, whose examples have the forms of sources/values.py."""

    def __init__(self, custom: CustomSource, media_root: Path):
        """Opens the source. media_root: base of relative media paths.

        Raises UserError for a source without a name or without examples.
        """
        self.custom = custom
        self._name = name_of(custom)
        self._media_root = media_root
        self._examples = custom.open()
        if not len(self._examples):
            raise UserError(f"source {self._name} has no examples")

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        where = self.where(index)
        try:
            example = self._examples[index]
        except BadData as error:
            raise BadData(error.reason, f"{where}: {error}") from None
        except OSError as error:
            bad = bad_file(error)
            named = f"{error.filename}: " if error.filename else ""
            raise BadData(bad.reason, f"{where}: {named}{bad}") from None
        return record_from(example, where, self._media_root)

    def where(self, index: int) -> str:
        """NAME:INDEX."""
        return f"{self._name}:{index}"

    def num_bytes(self) -> int:
        """0: unknown."""
        return 0

    def content(self) -> str:
        """The source's name and content as one line of JSON, the same in every process.

        Raises UserError if the content is not a JSON value.
        """
        try:
            return json.dumps([self._name, self.custom.content()], sort_keys=True, default=_path)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"source {self._name}: its content() cannot be written as JSON ({error}); "
                "expected numbers, texts, lists and dicts"
            ) from None


def name_of(custom: CustomSource) -> str:
    """The name of a custom source. Raises UserError if it has none."""
    name = getattr(custom, "name", None)
    if not (isinstance(name, str) and name):
        raise UserError(
            f"a source of class {type(custom).__name__} has no name; write name = 'mine' in it"
        )
    return name


def python_file(spec: str) -> tuple[Path, str] | None:
    """(FILE.py, ARGUMENT) if a spec names a Python file that exists, else None."""
    match = _PYTHON_FILE.fullmatch(spec)
    try:
        return (Path(match[1]), match[2] or "") if match and Path(match[1]).is_file() else None
    except OSError:  # a name that is too long
        return None


def load_custom(path: Path, argument: str) -> CustomSource:
    """Calls `get_source` of a Python file.

    Raises UserError for a file that cannot be run, or whose get_source is missing or does not
    return a CustomSource.
    """
    custom = call_in_file(str(path), "get_source", argument, "source file")
    if not isinstance(custom, CustomSource):
        raise UserError(
            f"source file {path} must define a get_source() that returns an owl_jax.data.sources."
            f"custom.CustomSource; found {type(custom).__name__}"
        )
    return custom


def _path(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"found {type(value).__name__}")
