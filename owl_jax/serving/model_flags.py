"""The flags of commands that answer requests: which model, on which devices, with how many rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

import owl_jax
from owl_jax import cli
from owl_jax.errors import UserError
from owl_jax.files import as_typed
from owl_jax.inference.arguments import CACHE_DTYPES, DTYPES, NUM_FRAMES, whole_number

if TYPE_CHECKING:
    from owl_jax.serving.model import Model

_MODEL = flags.DEFINE_string("model", None, "the model's directory", required=True)
_NAME = flags.DEFINE_string(
    "name", None, "what requests write as `model`; by default the directory's name"
)
_ADAPTER = flags.DEFINE_multi_string(
    "adapter", [], "NAME=DIR, a LoRA adapter that requests choose as `model`; repeatable"
)
_ANY_BASE = flags.DEFINE_bool("any_base", False, "accept adapters of another base model")
_VERIFY = flags.DEFINE_bool("verify", False, "first check the files against their SHA256SUMS")
_PARTS = cli.define_parts_flag()
_CONVERSATION = flags.DEFINE_string(
    "conversation", None, "the conversation format, instead of the model's: a name or a Python file"
)
_DTYPE = flags.DEFINE_enum(
    "dtype", None, DTYPES, "dtype of the weights; by default float32 on a CPU, else bfloat16"
)
_CACHE_DTYPE = flags.DEFINE_enum(
    "cache_dtype", "auto", CACHE_DTYPES, "dtype of cached keys and values; auto: of the computation"
)
TEMPERATURE = flags.DEFINE_float(
    "temperature", 1.0, "of requests that name none; 0 is greedy decoding"
)

_DATA = flags.DEFINE_integer("mesh_data", 1, "devices among which rows are divided")
_FSDP = flags.DEFINE_integer(
    "mesh_fsdp", 1, "devices among which weights are divided; -1: the rest"
)
_TENSOR = flags.DEFINE_integer("mesh_tensor", 1, "devices among which heads are divided")
_ROWS = flags.DEFINE_integer(
    "num_rows", None, "answers at once; by default as many as fit into memory"
)
_LENGTH = flags.DEFINE_integer(
    "row_length",
    None,
    "tokens of prompt and answer together; by default the model's maximum, at most 2,048",
)
_NUM_FRAMES = flags.DEFINE_multi_integer(
    "num_frames",
    [NUM_FRAMES],
    "that the model sees of a video: the first, or what a request chooses of several; repeatable",
)
_MEDIA_CACHE = flags.DEFINE_integer(
    "media_cache_mb", 1024, "of encoded pictures and videos that are kept on the device"
)

MODEL = (
    *(_MODEL, _NAME, _ADAPTER, _ANY_BASE, _DTYPE, _CONVERSATION, _PARTS, _VERIFY),
    TEMPERATURE,
)
ENGINE = (_DATA, _FSDP, _TENSOR, _ROWS, _LENGTH, _CACHE_DTYPE, _NUM_FRAMES, _MEDIA_CACHE)


@contextmanager
def needs_packages() -> Iterator[None]:
    """Raises UserError if the block imports a package of the extra `serve` that is not there."""
    try:
        yield
    except ImportError as error:
        if (error.name or "owl_jax").partition(".")[0] == "owl_jax":
            raise
        raise UserError(
            f"{error.name} is not installed; install the server's packages: pip install "
            "'owl_jax[serve]'"
        ) from None


def checked_name() -> str:
    """The model's name, after the flags of this module have been checked. Raises UserError."""
    from owl_jax.inference.given_media import MOST_FRAMES
    from owl_jax.inference.sampling import Sampling

    Sampling.of(TEMPERATURE.value)
    whole(_MEDIA_CACHE, 0)
    for number in _NUM_FRAMES.value:
        whole_number(number, "--num_frames", 1, MOST_FRAMES)
    for flag in (_ROWS, _LENGTH):
        if flag.value is not None:
            whole(flag)
    name: str = _NAME.value or Path(_MODEL.value).resolve().name
    if name in _adapters(_ADAPTER.value):
        raise UserError(f"--adapter={name}=...: the model has this name; give another")
    return name


def load(name: str, max_waiting: int) -> Model:
    """The model with its engine, which runs; all programs are compiled.

    Raises UserError if the model cannot be loaded, and on a slice of several hosts.
    """
    import jax

    from owl_jax.inference.engine import Engine
    from owl_jax.parallel.mesh import make_mesh
    from owl_jax.serving.model import Model

    if (count := jax.process_count()) > 1:
        raise UserError(
            f"this is one of {count} processes of a slice of several hosts; expected a slice of "
            "one host: start a server of its own on each"
        )
    sizes = (_DATA.value, _FSDP.value, _TENSOR.value)
    dtype = _DTYPE.value or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    owl = owl_jax.load(
        _MODEL.value,
        dtype,
        mesh=None if sizes == (1, 1, 1) else make_mesh(*sizes),
        any_base=_ANY_BASE.value,
        verify=_VERIFY.value,
        parts=_PARTS.value,
        conversation=_CONVERSATION.value,
        adapters=_adapters(_ADAPTER.value),
        cache_dtype=_CACHE_DTYPE.value,
    )
    engine = Engine(
        owl,
        num_rows=_ROWS.value,
        row_length=_LENGTH.value,
        max_waiting=max_waiting,
        frames=_NUM_FRAMES.value,
        media_cache_bytes=_MEDIA_CACHE.value << 20,
    )
    model = Model(name, owl, engine)
    model.warm_up()
    engine.warm_up()
    engine.start()
    return model


def whole(flag: flags.FlagHolder[Any], least: int = 1) -> int:
    """A flag's whole number. Raises UserError for one below `least`."""
    return whole_number(flag.value, f"--{flag.name}", least)


def _adapters(given: Sequence[str]) -> dict[str, Path]:
    """Adapters by name. Raises UserError for a value that is not NAME=DIR, and for a name twice."""
    found: dict[str, Path] = {}
    for value in given:
        name, equals, directory = value.partition("=")
        if not equals or not name or not directory:
            raise UserError(f"--adapter={value}; expected --adapter=NAME=DIR")
        if name in found:
            raise UserError(f"--adapter={name}=... is given twice; give each adapter its own name")
        found[name] = Path(as_typed(directory))
    return found
