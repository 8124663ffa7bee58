"""The model that is served: its weights, its engine, and the names by which clients choose."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from owl_jax.errors import UserError
from owl_jax.inference.api import Owl
from owl_jax.inference.requests import ChatPrompt, Event, Request, Stats, Ticket
from owl_jax.serving.constraint import Grammars
from owl_jax.serving.errors import ApiError


class Engine(Protocol):
    """What the server needs of inference/engine.py."""

    @property
    def adapters(self) -> tuple[str, ...]: ...

    @property
    def num_rows(self) -> int: ...

    @property
    def row_length(self) -> int: ...

    @property
    def frames(self) -> tuple[int, ...]: ...

    def submit(self, request: Request, listener: Callable[[Event], None]) -> Ticket: ...

    def stats(self) -> Stats: ...

    def problem(self, stall_seconds: float) -> str | None: ...

    def max_new_tokens(self, prompt: ChatPrompt) -> int: ...

    def drain(self, timeout: float) -> bool: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Model:
    """A loaded model.

    name: the base model's, as clients write it; adapters have their own names.
    """

    name: str
    owl: Owl
    engine: Engine
    created: int = field(default_factory=lambda: int(time.time()))

    @cached_property
    def grammars(self) -> Grammars:
        """For response_format. Takes seconds to build for a large vocabulary."""
        owl = self.owl
        return Grammars(owl.tokenizer, owl.config.llm.vocab_size, owl.end_ids)

    def warm_up(self) -> None:
        """Reads what the first request would wait for, and finds what is wrong with it.

        Raises UserError for a model without a usable tokenizer.
        """
        _ = self.owl.tokenizer, self.owl.format, self.owl.end_ids
        with suppress(UserError):  # a request that needs grammars gets this error
            _ = self.grammars

    def adapter(self, name: str | None) -> str | None:
        """The adapter that a request's `model` means; None: the base. Raises ApiError 404."""
        if name is None or name == self.name:
            return None
        if name in self.engine.adapters:
            return name
        known = ", ".join((self.name, *self.engine.adapters))
        raise ApiError(
            404,
            f"the model {name[:200]!r} does not exist; this server has {known}",
            param="model",
            code="model_not_found",
        )

    def listed(self) -> list[dict[str, Any]]:
        """The entries of /v1/models: the base, then its adapters."""
        entry = {"object": "model", "created": self.created, "owned_by": "owl_jax"}
        length = min(self.engine.row_length, self.owl.config.llm.max_length)
        base = {"id": self.name, **entry, "parent": None, "max_model_len": length}
        return [
            base,
            *(
                {"id": name, **entry, "parent": self.name, "max_model_len": length}
                for name in self.engine.adapters
            ),
        ]
