"""Bearer keys: who may ask."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from owl_jax.errors import UserError
from owl_jax.files import open_regular
from owl_jax.serving.errors import ApiError

OPEN = frozenset({"/health", "/metrics"})  # asked by machines that have no key

_SHORTEST = 8  # characters of a key


class Keys:
    """Middleware that lets requests pass only with one of the keys, but for open paths."""

    def __init__(
        self, app: ASGIApp, keys: Sequence[str] = (), open_paths: frozenset[str] = OPEN
    ) -> None:
        """keys: none lets every request pass."""
        self._open_paths = open_paths
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        is_guarded = scope["type"] == "http" and scope["path"] not in self._open_paths
        if is_guarded and self._digests and not self._is_known(scope):
            error = ApiError(
                401,
                "missing or unknown API key; send it as Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        given = b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                kind, _, key = value.partition(b" ")
                given = key.strip() if kind.lower() == b"bearer" else b""
        digest = _digest(given)
        # All are compared, each in constant time: how long it takes says nothing about the keys.
        return sum(hmac.compare_digest(digest, each) for each in self._digests) > 0


def read_keys(path: str | Path) -> tuple[str, ...]:
    """The keys in a file, one on each line; empty lines and lines that begin with # are none.

    Raises UserError if the file cannot be read, has no keys, or has one that is too easy to guess.
    """
    try:
        with open_regular(Path(path)) as file:
            lines = file.read().decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api_key_file={path} cannot be read: {error}") from None
    stripped = (line.strip() for line in lines)
    keys = tuple(line for line in stripped if line and not line.startswith("#"))
    if not keys:
        raise UserError(f"--api_key_file={path} has no keys; expected one on each line")
    if min(map(len, keys)) < _SHORTEST:
        raise UserError(
            f"--api_key_file={path} has a key of less than {_SHORTEST} characters; make one with: "
            "openssl rand -hex 32"
        )
    return keys


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
