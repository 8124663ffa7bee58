"""Reads pytorch_model*.bin without running code from them; the only module that imports torch.

Needs the extra `convert`.
"""

from __future__ import annotations

import pickle
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from owl_jax.checkpoint.tensors import EXPECTED_DTYPES, UNREAD, TensorFiles, TensorInfo
from owl_jax.errors import UserError, shown
from owl_jax.files import NotAFile, check_regular
from owl_jax.models.transforms import Slices
from owl_jax.models.weight_names import BUFFERS

# A file is reopened after reading this much: mapped pages count as this process's memory.
_MAPPED_BYTES = 500_000_000


class TorchFiles(TensorFiles):
    """The tensors of files that `torch.save` wrote.

    Raises UserError if torch is not installed, if a file is damaged, not regular or holds anything
    but tensors, if two files have the same tensor, or if a tensor, except a buffer, is not of plain
    floats.
    """

    def __init__(self, paths: Sequence[Path]):
        try:
            import torch
        except ImportError:
            raise UserError(
                f"{paths[0]} was written by PyTorch, which is needed to read it: "
                "pip install 'owl_jax[convert]'"
            ) from None
        self._torch = torch
        self._open: tuple[Path, Mapping[str, Any]] | None = None
        self._mapped = 0
        self._lock = threading.Lock()
        super().__init__(paths)

    def _contents(self, path: Path) -> Iterator[tuple[str, TensorInfo]]:
        for name, tensor in self._tensors(path).items():
            if not isinstance(name, str):
                raise UserError(f"{path}: key {shown(name)} is not a string; expected a state_dict")
            if not isinstance(tensor, self._torch.Tensor):
                raise UserError(
                    f"{path}: {name} is {type(tensor).__name__}; expected a dictionary of tensors"
                )
            dtype = self._dtype(tensor)
            if dtype is None and not BUFFERS.fullmatch(name):
                raise UserError(f"{path}: {name} is {self._kind(tensor)}; {EXPECTED_DTYPES}")
            yield name, TensorInfo(path, tuple(tensor.shape), UNREAD if dtype is None else dtype)

    def _read(self, path: Path, name: str, part: Slices) -> np.ndarray:
        with self._lock:
            if self._mapped > _MAPPED_BYTES:
                self._open = None
            tensor = self._tensors(path)[name].detach()
            value = np.array(self._numpy(tensor[part] if part else tensor))
            self._mapped += value.nbytes
        return value

    def _tensors(self, path: Path) -> Mapping[str, Any]:
        """The file's tensors, mapped into memory; only one file is open at a time."""
        if self._open is None or self._open[0] != path:
            self._open, self._mapped = None, 0
            self._open = path, self._load(path)
        return self._open[1]

    def _load(self, path: Path) -> Mapping[str, Any]:
        load = self._torch.load
        try:
            check_regular(path)
            try:
                held = load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                # Files of torch before 1.6 cannot be mapped.
                if "mmap" not in str(error):
                    raise
                held = load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if "Unsupported operand" in str(error):
                raise UserError(
                    f"{path}: not a readable PyTorch file; is it a git-lfs pointer?"
                ) from None
            raise UserError(
                f"{path} holds more than tensors, and reading it would run code from it; "
                "refused. Save only the state_dict, best as safetensors"
            ) from None
        except (
            RuntimeError,
            EOFError,
            OSError,
            ValueError,
            KeyError,
            IndexError,
            struct.error,
        ) as error:
            first = str(error).splitlines()[:1]
            if isinstance(error, NotAFile):
                first = [str(error.strerror)]
            raise UserError(f"{path}: not a readable PyTorch file ({' '.join(first)})") from None
        if not isinstance(held, Mapping):
            raise UserError(
                f"{path}: found {type(held).__name__}, expected a dictionary of tensors"
            )
        return held

    def _numpy(self, tensor: Any) -> np.ndarray:
        """A NumPy view of the tensor's memory; bfloat16 becomes ml_dtypes.bfloat16."""
        if tensor.dtype == self._torch.bfloat16:
            bits: np.ndarray = tensor.view(self._torch.uint16).numpy()
            return bits.view(ml_dtypes.bfloat16)
        array: np.ndarray = tensor.numpy()
        return array

    def _dtype(self, tensor: Any) -> np.dtype | None:
        """The NumPy dtype of a plain float tensor; None for any other tensor."""
        torch = self._torch
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            return None
        dtypes = {
            torch.bfloat16: ml_dtypes.bfloat16,
            torch.float16: np.float16,
            torch.float32: np.float32,
            torch.float64: np.float64,
        }
        found = dtypes.get(tensor.dtype)
        return None if found is None else np.dtype(found)

    def _kind(self, tensor: Any) -> str:
        """The kind of a tensor, for messages: "int32", "sparse float32"."""
        name = str(tensor.dtype).removeprefix("torch.")
        if tensor.device.type == "meta":
            return f"{name} without data (on the meta device)"
        layout = str(tensor.layout).removeprefix("torch.")
        return name if layout == "strided" else f"{name} in the layout {layout}"
