"""Answers in JSON: `response_format`, by llguidance's grammars over the model's tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from owl_jax.errors import UserError
from owl_jax.text.tokenizer import Tokenizer

# Between two tokens of JSON. Without a bound a model may write spaces until its answer is full.
_OPTIONS: Any = {"whitespace_pattern": r"[ \t\r\n]{0,20}"}

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


class Grammars:
    """Makes constraints for one model; any thread may call it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Sequence[int]) -> None:
        """vocab_size: of the model. end_ids: may follow a complete answer.

        Raises UserError if llguidance is not installed, or cannot use the tokenizer.
        """
        try:
            import llguidance
        except ImportError:
            raise UserError(
                "response_format needs llguidance: pip install 'owl_jax[serve]'"
            ) from None
        self._library = llguidance
        self._num_words = (vocab_size + 31) // 32
        ends = [id for id in end_ids if 0 <= id < vocab_size]
        wrapped = llguidance.TokenizerWrapper(_Vocabulary(tokenizer, vocab_size))
        try:
            self._tokenizer = llguidance.LLTokenizer(wrapped, n_vocab=vocab_size, eos_token=ends)
        except ValueError as error:
            raise UserError(
                f"response_format cannot be used with this tokenizer: {error}"
            ) from None

    def of_schema(self, schema: Mapping[str, Any] = ANY_OBJECT) -> JsonConstraint:
        """A constraint for one answer that is JSON of a schema.

        Raises UserError for a schema that is invalid or says what llguidance cannot check.
        """
        matcher = self._library.LLMatcher
        try:
            grammar = matcher.grammar_from_json_schema(json.dumps(schema), overrides=_OPTIONS)
        except (ValueError, RecursionError) as error:
            raise UserError(f"the schema cannot be used: {error}") from None
        made = matcher(self._tokenizer, grammar, log_level=0)
        if made.is_error():
            raise UserError(f"the schema cannot be used: {made.get_error()}")
        return JsonConstraint(made, self._num_words)


class JsonConstraint:
    """See inference.requests.Constraint."""

    def __init__(self, matcher: Any, num_words: int) -> None:
        self._matcher = matcher
        self._num_words = num_words

    def allowed(self) -> np.ndarray:
        """uint32[num_words]"""
        words = np.zeros(self._num_words, np.uint32)
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if self._matcher.is_error():
            raise UserError(f"the schema cannot be followed: {self._matcher.get_error()}")
        return words

    def accept(self, token: int) -> None:
        """See Constraint."""
        self._matcher.consume_token(token)

    def copy(self) -> JsonConstraint:
        """Another constraint in the same state, for another answer."""
        return JsonConstraint(self._matcher.deep_copy(), self._num_words)


class _Vocabulary:
    """A tokenizer as llguidance wants it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._encode = tokenizer.encode
        self._new_line = tokenizer.encode("\n")
        self.eos_token_id = tokenizer.eos_id
        self.bos_token_id = tokenizer.bos_id
        self.special_token_ids = sorted(tokenizer.special_tokens)
        # A token without text must not look like one that can always come next.
        self.tokens = [tokenizer.token_bytes(id) or b"\xff<%d>" % id for id in range(vocab_size)]

    def __call__(self, text: bytes) -> list[int]:
        # After a newline, no tokenizer adds a dummy prefix or merges the two texts.
        ids = self._encode("\n" + text.decode("utf-8", errors="replace"))
        return ids[len(self._new_line) :]
