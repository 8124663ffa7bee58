"""Reads directories of TensorFlow Datasets, without TensorFlow.

An example's features are the values of sources/values.py; images stay encoded. Only formats with
random access can be read: array_record, and parquet, which the library loads into memory.

`tensorflow-datasets` is an optional dependency: pip install 'owl_jax[data]'.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from owl_jax.data.sources.record import Record
from owl_jax.data.sources.values import record_from
from owl_jax.errors import BadData, UserError, one_line


class _AsStored:
    """A decoder, in the library's interface, that leaves images, or lists of them, encoded.

    The library's SkipDecoding needs TensorFlow for lists.
    """

    def setup(self, *, feature: Any) -> None:
        pass

    def decode_example_np(self, value: Any) -> Any:
        return value

    decode_batch_example_np = decode_ragged_example_np = decode_example_np


@dataclass
class TfdsSource:
    """The examples of one split of a directory with dataset_info.json and features.json.

    Args:
      directory: of one version: .../NAME/1.0.0.
      split: in the library's notation, "train" or "train[:50%]".
      media_root: base of relative paths in the features.

    Raises UserError for a directory that needs TensorFlow, a split that does not exist, or if
    `tensorflow-datasets` is not installed.
    """

    directory: Path
    split: str
    media_root: Path
    _examples: Any = field(init=False, repr=False)
    _num_bytes: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._open()
        if len(self._examples) == 0:
            raise UserError(f"{self.directory}@{self.split}: no examples")

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        where = self.where(index)
        try:
            example = self._examples[int(index)]
        except (RuntimeError, ValueError) as error:  # a shard is damaged or gone
            raise BadData("damaged record", f"{where}: {one_line(error)}") from None
        return record_from(example, where, self.media_root)

    def where(self, index: int) -> str:
        """DIRECTORY@SPLIT:NUMBER, counted from 0."""
        return f"{self.directory}@{self.split}:{index}"

    def num_bytes(self) -> int:
        """Size of all splits according to dataset_info.json."""
        return self._num_bytes

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_examples": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        tfds = _import_tfds(self.directory)
        try:
            builder = tfds.builder_from_directory(str(self.directory))
            self._num_bytes = int(builder.info.dataset_size)
            decoders = _decoders(tfds, builder.info.features)
            self._examples = builder.as_data_source(self.split, decoders=decoders)
        except NotImplementedError:
            raise UserError(
                f"{self.directory} is in the format {builder.info.file_format.value}, which has no "
                "random access; convert it where TensorFlow is installed: tfds "
                f"convert_format --dataset_version_dir={self.directory} "
                "--out_file_format=array_record"
            ) from None
        except ImportError:
            raise UserError(
                f"{self.directory} has a feature that cannot be read without TensorFlow; expected "
                "Text, Image and sequences of them"
            ) from None
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{self.directory}@{self.split}: cannot be opened ({one_line(error)})"
            ) from None


def _decoders(tfds: ModuleType, feature: Any) -> Any:
    """_AsStored for each image, in the structure of the features; None if there are no images."""
    if isinstance(feature, tfds.features.FeaturesDict):
        found = {name: _decoders(tfds, inner) for name, inner in feature.items()}
        return {name: decoder for name, decoder in found.items() if decoder is not None} or None
    if isinstance(feature, tfds.features.Sequence):
        return _decoders(tfds, feature.feature)
    return _AsStored() if isinstance(feature, tfds.features.Image) else None


def _import_tfds(directory: Path) -> ModuleType:
    try:
        import tensorflow_datasets
    except ImportError:
        raise UserError(
            f"{directory}: needs the package tensorflow-datasets; pip install 'owl_jax[data]'"
        ) from None
    return tensorflow_datasets
