"""Refuses requests for other names, where only this machine may ask and no key is needed.

A web page may give its own name the address 127.0.0.1 once a browser has loaded it, and would then
be the same origin as this server. The browser still sends the page's name as Host.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from owl_jax.serving.errors import ApiError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class LocalHosts:
    """Middleware that lets requests pass whose Host is a name of this machine's loopback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and (name := _host(scope)) not in LOOPBACK:
            error = ApiError(
                421,
                f"this server answers as localhost, not as {name[:100]!r}; with --api_key_file it "
                "answers under any name",
                code="wrong_host",
            )
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _host(scope: Scope) -> str:
    """The Host header without its port."""
    given = next((value for name, value in scope["headers"] if name == b"host"), b"")
    text = given.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
