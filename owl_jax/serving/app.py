"""The server's paths."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TextIO

import anyio.to_thread
import msgspec
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from owl_jax.errors import UserError
from owl_jax.serving.access_log import AccessLog, request_id
from owl_jax.serving.endpoint import Endpoint
from owl_jax.serving.errors import ApiError, api_error, internal_error
from owl_jax.serving.forms import ChatForm, CompletionForm
from owl_jax.serving.hosts import LocalHosts
from owl_jax.serving.job import Planner
from owl_jax.serving.keys import OPEN, Keys
from owl_jax.serving.page import PATHS, page_routes
from owl_jax.serving.service import Service
from owl_jax.serving.votes import Votes


def make_app(
    service: Service,
    keys: tuple[str, ...] = (),
    log: TextIO | None = None,
    *,
    is_local: bool = False,
) -> ASGIApp:
    """The ASGI application.

    keys: none if anybody may ask; the page's files are open to all. log: of requests; stderr by
    default. is_local: whether it listens on this machine's loopback only.
    """

    async def health(request: Request) -> Response:
        service.check_healthy()
        return _json({"status": "ok"})

    async def models(request: Request) -> Response:
        return _json({"object": "list", "data": service.model.listed()})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        service.model.adapter(name)  # refuses an unknown one
        return _json(next(entry for entry in service.model.listed() if entry["id"] == name))

    async def metrics(request: Request) -> Response:
        text = await anyio.to_thread.run_sync(service.metrics.text)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await anyio.to_thread.run_sync(service.close)

    routes = [
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/v1/chat/completions", Endpoint(service, Planner.chat, ChatForm), methods=["POST"]),
        Route(
            "/v1/completions",
            Endpoint(service, Planner.completion, CompletionForm),
            methods=["POST"],
        ),
        Route("/votes", Votes(service).__call__, methods=["POST"]),
        *page_routes(service.settings),
    ]
    handlers = {
        HTTPException: _http_error,
        ApiError: _api_error,
        UserError: _user_error,
        Exception: _fault,  # answers, then raises it again for the log
    }
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    guarded = LocalHosts(app) if is_local and not keys else Keys(app, keys, OPEN | PATHS)
    return AccessLog(guarded, service.metrics.responded, log)


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _user_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    return api_error(error).response()


async def _fault(request: Request, error: Exception) -> Response:
    return internal_error(request_id(request.scope)).response()


async def _http_error(request: Request, error: Exception) -> Response:
    """Of Starlette: no such path, or another method."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return ApiError(error.status_code, message, headers=error.headers).response()
