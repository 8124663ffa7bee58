"""The state of a server: loading, ready, draining; and what all requests share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from owl_jax.inference.requests import Stats
from owl_jax.serving.body import Bodies
from owl_jax.serving.download import Downloads
from owl_jax.serving.errors import ApiError, unavailable
from owl_jax.serving.job import Planner
from owl_jax.serving.metrics import Metrics
from owl_jax.serving.model import Model
from owl_jax.serving.settings import Settings

T = TypeVar("T")


class Service:
    """What the endpoints share.

    failure: what ended the loading of the model, if anything did.
    is_draining: whether the server takes no more work.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        """name: of the base model, known before it is loaded."""
        self.settings, self.name = settings, name
        self.bodies = Bodies(settings.limits)
        self.metrics = Metrics(settings.metrics_prefix, name, self._stats)
        self.downloads = Downloads(
            settings.media_hosts, settings.download_bytes, settings.download_seconds
        )
        self.failure: BaseException | None = None
        self.is_draining = False
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="prepare")
        self._preparing = 0
        self._loaded: Model | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether the model can answer."""
        return self._loaded is not None

    def check_ready(self) -> None:
        """Raises ApiError 503 while the model is loading, and while the server drains."""
        if self.is_draining:
            raise unavailable("the server is shutting down", "shutting_down")
        if self._loaded is None:
            raise unavailable("the model is loading", "loading")

    def check_healthy(self) -> None:
        """Raises ApiError as `check_ready` does, and while the engine cannot answer."""
        problem = self.model.engine.problem(self.settings.stall_seconds)
        if problem is not None:
            raise unavailable(problem, "engine_failed")

    @property
    def model(self) -> Model:
        """The model. Raises ApiError as `check_ready` does."""
        self.check_ready()
        assert self._loaded is not None
        return self._loaded

    @property
    def planner(self) -> Planner:
        """Makes jobs of bodies. Raises ApiError as `model` does."""
        return Planner(self.model, self.settings, self.downloads)

    def load(
        self,
        loader: Callable[[], Model],
        when_ready: Callable[[], None],
        when_failed: Callable[[], None],
    ) -> None:
        """Loads the model in a thread, while /health already answers.

        loader: returns a model that is warm. when_ready: called when requests are answered.
        when_failed: called after `failure` is set.
        """

        def run() -> None:
            try:
                self._loaded = loader()
                when_ready()
            except BaseException as error:
                self.failure = error
                when_failed()

        # A daemon: a server that is asked to end while it loads does not wait.
        threading.Thread(target=run, name="load", daemon=True).start()

    def close(self) -> None:
        """Lets the engine finish what it has, for at most `drain_seconds`, and ends it."""
        self.is_draining = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._loaded is not None:
            self._loaded.engine.drain(self.settings.drain_seconds)
            self._loaded.engine.close()

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Counts a request until the engine has it. Raises ApiError if there are too many."""
        if self._preparing >= self.settings.limits.waiting:
            raise unavailable("too many requests at the moment", "queue_full")
        self._preparing += 1
        try:
            yield
        finally:
            self._preparing -= 1

    async def in_pool(self, work: Callable[[], T]) -> T:
        """The result of `work`, which blocks, from a thread of the pool."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except RuntimeError as error:
            if self.is_draining:
                raise ApiError(503, "the server is shutting down", code="shutting_down") from error
            raise

    def _stats(self) -> Stats | None:
        return None if self._loaded is None else self._loaded.engine.stats()
