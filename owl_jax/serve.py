"""Serves a model over HTTP, as OpenAI's API.

    python -m owl_jax.serve --model=DIR [--host=127.0.0.1] [--port=8000]
        [--adapter=NAME=DIR ...] [--api_key_file=FILE]

Any client for OpenAI's API works with the address http://127.0.0.1:8000/v1. The port is open at
once; /health is 503 until the model is loaded and all programs are compiled. SIGTERM lets running
answers finish. docs/serving.md has the paths, limits and metrics.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

import owl_jax
from owl_jax import cli
from owl_jax.errors import UserError
from owl_jax.files import as_typed
from owl_jax.inference.arguments import DTYPES, NUM_FRAMES, whole_number

if TYPE_CHECKING:
    from owl_jax.serving.model import Model
    from owl_jax.serving.settings import Settings

_MODEL = flags.DEFINE_string("model", None, "the model's directory", required=True)
_NAME = flags.DEFINE_string(
    "name", None, "what clients write as `model`; by default the directory's name"
)
_ADAPTER = flags.DEFINE_multi_string(
    "adapter", [], "NAME=DIR, a LoRA adapter that clients choose as `model`; repeatable"
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
_TEMPERATURE = flags.DEFINE_float(
    "temperature", 1.0, "of requests that name none; 0 is greedy decoding"
)

_HOST = flags.DEFINE_string("host", "127.0.0.1", "the address to listen on; 0.0.0.0 is all")
_PORT = flags.DEFINE_integer("port", 8000, "the port to listen on; 0 is any free one")
_PING = flags.DEFINE_float("ping_seconds", 15.0, "between two signs of life in a silent stream")
_DRAIN = flags.DEFINE_float("drain_seconds", 30.0, "for running answers after SIGTERM")
_PREFIX = flags.DEFINE_enum(
    "metrics_prefix", "owl", ("owl", "vllm"), "of the names in /metrics; vllm suits its dashboards"
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
    "row_length", None, "tokens of prompt and answer together; by default the model's maximum"
)
_NUM_FRAMES = flags.DEFINE_multi_integer(
    "num_frames",
    [NUM_FRAMES],
    "that the model sees of a video: the first, or what a request chooses of several; repeatable",
)
_MEDIA_CACHE = flags.DEFINE_integer(
    "media_cache_mb", 1024, "of encoded pictures and videos that are kept on the device"
)
_WAITING = flags.DEFINE_integer("max_waiting", 256, "requests in the queue; more get 503")

_KEYS = flags.DEFINE_string(
    "api_key_file", None, "a file with one key on each line; clients must send one of them"
)
_HOSTS = flags.DEFINE_multi_string(
    "allowed_media_host", [], "a host from which media are fetched, https only; repeatable"
)
_DOWNLOAD = flags.DEFINE_integer("max_download_mb", 32, "of one medium from such a host")
_DOWNLOAD_SECONDS = flags.DEFINE_float("download_seconds", 10.0, "for one medium")

_BODY = flags.DEFINE_integer("max_body_mb", 32, "of one request; more is 413")
_BODIES = flags.DEFINE_integer("max_bodies_mb", 256, "of all requests being read; more is 503")
_BODY_SECONDS = flags.DEFINE_float("body_seconds", 30.0, "until a body is complete; then 408")
_SECONDS = flags.DEFINE_float("request_seconds", None, "of one answer; then 504. No limit if unset")
_IMAGES = flags.DEFINE_integer("max_images", 16, "pictures in a request")
_VIDEOS = flags.DEFINE_integer("max_videos", 4, "videos in a request")
_FRAMES = flags.DEFINE_integer("max_frames", 256, "pictures of a video that is sent as a list")
_FILE_FRAMES = flags.DEFINE_integer("max_video_frames", 36_000, "frames in a video file")
_MEGAPIXELS = flags.DEFINE_float("max_megapixels", 50.0, "of a picture or a frame, at most 100")
_CHOICES = flags.DEFINE_integer("max_choices", 8, "answers to one request (n)")
_TOKENS = flags.DEFINE_integer("max_new_tokens", None, "of an answer; by default what fits")
_THREADS = flags.DEFINE_integer("threads", 4, "that decode media and tokenize")

GROUPS = {
    "model": (
        *(_MODEL, _NAME, _ADAPTER, _ANY_BASE, _DTYPE, _CONVERSATION, _PARTS, _VERIFY),
        _TEMPERATURE,
    ),
    "address": (_HOST, _PORT, _PING, _DRAIN, _PREFIX),
    "engine": (_DATA, _FSDP, _TENSOR, _ROWS, _LENGTH, _NUM_FRAMES, _MEDIA_CACHE, _WAITING),
    "security": (_KEYS, _HOSTS, _DOWNLOAD, _DOWNLOAD_SECONDS),
    "limits of a request": (
        *(_BODY, _BODIES, _BODY_SECONDS, _SECONDS, _IMAGES, _VIDEOS, _FRAMES, _FILE_FRAMES),
        *(_MEGAPIXELS, _CHOICES, _TOKENS, _THREADS),
    ),
}


def main(argv: list[str]) -> None:
    """Serves until SIGTERM or Ctrl-C."""
    del argv
    with cli.interrupts_end_at_once():
        try:
            from owl_jax.serving.app import make_app
            from owl_jax.serving.hosts import LOOPBACK
            from owl_jax.serving.keys import read_keys
            from owl_jax.serving.server import run
            from owl_jax.serving.service import Service
        except ImportError as error:
            if (error.name or "owl_jax").partition(".")[0] == "owl_jax":
                raise
            raise UserError(
                f"{error.name} is not installed; install the server's packages: pip install "
                "--editable '.[serve]'"
            ) from None
        settings, adapters = _settings(), _adapters(_ADAPTER.value)
        name = _NAME.value or Path(_MODEL.value).resolve().name
        if name in adapters:
            raise UserError(f"--adapter={name}=...: the model has this name; give another")
        keys = read_keys(_KEYS.value) if _KEYS.value else ()
        service = Service(settings, name)
        listener = _listen(_HOST.value, _PORT.value)
    is_local = _HOST.value in LOOPBACK
    if not keys and not is_local:
        print(
            f"warning: --host={_HOST.value} without --api_key_file: anybody who reaches this "
            "address may use the model",
            file=sys.stderr,
        )
    app = make_app(service, keys, is_local=is_local)
    run(app, service, listener, lambda: _load(name, adapters))


def _load(name: str, adapters: dict[str, Path]) -> Model:
    """The model, with all programs compiled."""
    import jax

    from owl_jax.inference.engine import Engine
    from owl_jax.parallel.mesh import make_mesh
    from owl_jax.serving.model import Model

    sizes = (_DATA.value, _FSDP.value, _TENSOR.value)
    start = time.monotonic()
    dtype = _DTYPE.value or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    owl = owl_jax.load(
        _MODEL.value,
        dtype,
        mesh=None if sizes == (1, 1, 1) else make_mesh(*sizes),
        any_base=_ANY_BASE.value,
        verify=_VERIFY.value,
        parts=_PARTS.value,
        conversation=_CONVERSATION.value,
        adapters=adapters,
    )
    engine = Engine(
        owl,
        num_rows=_ROWS.value,
        row_length=_LENGTH.value,
        max_waiting=_WAITING.value,
        frames=_NUM_FRAMES.value,
        media_cache_bytes=_MEDIA_CACHE.value << 20,
    )
    model = Model(name, owl, engine)
    model.warm_up()
    engine.warm_up()
    engine.start()
    cli.say(f"{name} is ready after {time.monotonic() - start:.0f} s")
    return model


def _settings() -> Settings:
    from owl_jax.inference.given_media import MOST_FRAMES
    from owl_jax.inference.sampling import Sampling
    from owl_jax.serving.settings import Limits, Settings

    Sampling.of(_TEMPERATURE.value)
    _whole(_MEDIA_CACHE, 0)
    for number in _NUM_FRAMES.value:
        whole_number(number, "--num_frames", 1, MOST_FRAMES)
    for flag in (_ROWS, _LENGTH, _TOKENS):
        if flag.value is not None:
            _whole(flag)
    limits = Limits(
        body_bytes=_whole(_BODY) << 20,
        bodies_bytes=_whole(_BODIES) << 20,
        body_seconds=_positive(_BODY_SECONDS),
        images=_whole(_IMAGES, 0),
        videos=_whole(_VIDEOS, 0),
        pixels=int(_positive(_MEGAPIXELS) * 1e6),
        frames=_whole(_FRAMES),
        video_frames=_whole(_FILE_FRAMES),
        choices=_whole(_CHOICES),
        new_tokens=_TOKENS.value,
        waiting=_whole(_WAITING),
        request_seconds=None if _SECONDS.value is None else _positive(_SECONDS),
    )
    return Settings(
        limits,
        temperature=_TEMPERATURE.value,
        threads=_whole(_THREADS),
        ping_seconds=_positive(_PING),
        drain_seconds=_positive(_DRAIN),
        metrics_prefix=_PREFIX.value,
        media_hosts=tuple(host.strip().lower() for host in _HOSTS.value),
        download_bytes=_whole(_DOWNLOAD) << 20,
        download_seconds=_positive(_DOWNLOAD_SECONDS),
    )


def _whole(flag: flags.FlagHolder[Any], least: int = 1) -> int:
    return whole_number(flag.value, f"--{flag.name}", least)


def _positive(flag: flags.FlagHolder[Any]) -> float:
    """A flag's positive number."""
    value = float(flag.value)
    if not 0 < value < float("inf"):
        raise UserError(f"--{flag.name} is {value}; expected more than 0")
    return value


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


def _listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections. Raises UserError if the address cannot be had."""
    whole_number(port, "--port", 0, 65_535)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UserError(
            f"--host={host} --port={port} cannot be listened on ({error.strerror or error}); give "
            "another --port"
        ) from None


if __name__ == "__main__":
    cli.run(main, GROUPS)
