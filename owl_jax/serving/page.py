"""The page at /: its files, which anybody may read, and what it asks about this server.

The files are in static/, as they are sent; there is no build step. The headers let the page load
nothing from elsewhere, run no script but its own, and never write HTML from text.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from owl_jax.serving.settings import Settings

FOLDER = Path(__file__).with_name("static")

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# data: and blob: are pictures and videos that the user has chosen. Trusted Types make every way of
# writing HTML from text throw.
_CONTENT = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data: blob:",
    "media-src blob:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)

HEADERS = {
    "Content-Security-Policy": "; ".join(_CONTENT),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",  # asked each time, answered by 304
}


def _files() -> dict[str, Path]:
    """The path of each file on the server."""
    found = sorted(path for path in FOLDER.iterdir() if path.suffix in _TYPES)
    return {"/" if path.name == "index.html" else f"/static/{path.name}": path for path in found}


PATHS = frozenset(_files())


def page_routes(settings: Settings) -> list[Route]:
    """The routes of the page's files, read now, and of /server.json."""
    facts = msgspec.json.encode(_facts(settings))

    async def server(request: Request) -> Response:
        return Response(facts, headers={"Cache-Control": "no-store"}, media_type="application/json")

    files = [
        Route(path, partial(_send, file.read_bytes(), _TYPES[file.suffix]))
        for path, file in _files().items()
    ]
    return [*files, Route("/server.json", server)]


async def _send(data: bytes, kind: str, request: Request) -> Response:
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, headers={**headers, "Content-Type": kind})


def _facts(settings: Settings) -> dict[str, object]:
    limits = settings.limits
    return {
        "votes": settings.votes_file is not None,
        "temperature": settings.temperature,
        "max_body_bytes": limits.body_bytes,
        "max_images": limits.images,
        "max_videos": limits.videos,
        "max_pixels": limits.pixels,
        "max_frames": limits.frames,
        "max_new_tokens": limits.new_tokens,
    }
