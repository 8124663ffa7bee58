"""Serves a model over HTTP, as OpenAI's API.

    python -m owl_jax.serve --model=DIR [--host=127.0.0.1] [--port=8000]
        [--adapter=NAME=DIR ...] [--api_key_file=FILE]

A browser shows a page for conversations at http://127.0.0.1:8000, and any client for OpenAI's API
works with http://127.0.0.1:8000/v1. The port is open at once; /health is 503 until the model is
loaded and all programs are compiled. SIGTERM lets running answers finish. docs/serving.md has the
paths, limits and metrics.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any

from absl import flags

from owl_jax import cli
from owl_jax.errors import UserError
from owl_jax.inference.arguments import whole_number
from owl_jax.serving import model_flags
from owl_jax.serving.model_flags import whole

if TYPE_CHECKING:
    from owl_jax.serving.settings import Settings

_HOST = flags.DEFINE_string("host", "127.0.0.1", "the address to listen on; 0.0.0.0 is all")
_PORT = flags.DEFINE_integer("port", 8000, "the port to listen on; 0 is any free one")
_PING = flags.DEFINE_float("ping_seconds", 15.0, "between two signs of life in a silent stream")
_DRAIN = flags.DEFINE_float("drain_seconds", 30.0, "for running answers after SIGTERM")
_PREFIX = flags.DEFINE_enum(
    "metrics_prefix", "owl", ("owl", "vllm"), "of the names in /metrics; vllm suits its dashboards"
)

_VOTES = flags.DEFINE_string(
    "votes_file", None, "a JSON Lines file for the votes of the page, with their conversations"
)
_VOTES_SIZE = flags.DEFINE_integer("max_votes_mb", 1024, "of the file of votes")

_STALL = flags.DEFINE_float(
    "stall_seconds", 120.0, "without a result of the accelerator; then /health is 503"
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
    "model": model_flags.MODEL,
    "address": (_HOST, _PORT, _PING, _DRAIN, _PREFIX),
    "page": (_VOTES, _VOTES_SIZE),
    "engine": (*model_flags.ENGINE, _WAITING, _STALL),
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
        with model_flags.needs_packages():
            from owl_jax.serving.app import make_app
            from owl_jax.serving.hosts import LOOPBACK
            from owl_jax.serving.keys import read_keys
            from owl_jax.serving.server import run
            from owl_jax.serving.service import Service
        settings, name = _settings(), model_flags.checked_name()
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
    run(app, service, listener, lambda: model_flags.load(name, whole(_WAITING)))


def _settings() -> Settings:
    from owl_jax.serving.settings import Limits, Settings

    if _TOKENS.value is not None:
        whole(_TOKENS)
    limits = Limits(
        body_bytes=whole(_BODY) << 20,
        bodies_bytes=whole(_BODIES) << 20,
        body_seconds=_positive(_BODY_SECONDS),
        images=whole(_IMAGES, 0),
        videos=whole(_VIDEOS, 0),
        pixels=int(_positive(_MEGAPIXELS) * 1e6),
        frames=whole(_FRAMES),
        video_frames=whole(_FILE_FRAMES),
        choices=whole(_CHOICES),
        new_tokens=_TOKENS.value,
        waiting=whole(_WAITING),
        request_seconds=None if _SECONDS.value is None else _positive(_SECONDS),
    )
    return Settings(
        limits,
        temperature=model_flags.TEMPERATURE.value,
        threads=whole(_THREADS),
        ping_seconds=_positive(_PING),
        drain_seconds=_positive(_DRAIN),
        stall_seconds=_positive(_STALL),
        metrics_prefix=_PREFIX.value,
        media_hosts=tuple(host.strip().lower() for host in _HOSTS.value),
        download_bytes=whole(_DOWNLOAD) << 20,
        download_seconds=_positive(_DOWNLOAD_SECONDS),
        votes_file=_VOTES.value,
        votes_bytes=whole(_VOTES_SIZE) << 20,
    )


def _positive(flag: flags.FlagHolder[Any]) -> float:
    """A flag's positive number."""
    value = float(flag.value)
    if not 0 < value < float("inf"):
        raise UserError(f"--{flag.name} is {value}; expected more than 0")
    return value


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
