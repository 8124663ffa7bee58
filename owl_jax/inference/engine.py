"""`Owl`: a model that answers; what `owl_jax.load` returns.

Letters: B rows, L positions, N images, M videos, T frames, S picture side, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from owl_jax.checkpoint import model_directory
from owl_jax.errors import UserError
from owl_jax.inference.arguments import truth, whole_number
from owl_jax.inference.generate import decode, generate, prefill, quickest_form
from owl_jax.inference.given_media import MOST_FRAMES, open_clip, open_picture, take_out
from owl_jax.inference.interrupts import uninterrupted
from owl_jax.inference.prompt import Prompt, prompt_arrays, round_up
from owl_jax.inference.sampling import Sampling, random_key
from owl_jax.inference.text_stream import up_to, words
from owl_jax.media.image import ImageSource, preprocess_image
from owl_jax.media.video import VideoSource
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.vlm import Params, forward
from owl_jax.parallel.sharding import LogicalRules, num_batch_shards
from owl_jax.text.conversation import (
    check_media,
    longest_text,
    prompt_from_messages,
    tokenize_prompt,
)
from owl_jax.text.tokenizer import Tokenizer, check_vocabulary, has_tokenizer, load_tokenizer

MAX_NEW_TOKENS = 256
NUM_FRAMES = 4  # of a video, as in the video release's examples

# What the model writes if it runs on after its answer: the human's next question.
_NEXT_TURN = "\nHuman:"

# Tokens between two looks at what the device has written.
_STREAM_CHUNK = 8

_SURROGATE = re.compile("[\ud800-\udfff]")

_forward = jax.jit(forward, static_argnames=("config", "compute"))


class PromptTooLong(UserError):
    """The prompt leaves no position for an answer."""


class Owl:
    """A model with its weights on the device.

    config: what it is. params: {"vision", "connector", "llm", ["lora"]} of jax.Arrays; read only.
    as_trained: whether prompts are cut into pieces as in training.
    """

    def __init__(
        self,
        config: OwlConfig,
        params: Params,
        dtype: Any = jnp.float32,
        tokenizer_source: Path | None = None,
        mesh: Mesh | None = None,
        as_trained: bool = True,
    ):
        """Wraps weights that are in memory; inference/load.py reads them from a directory.

        Args:
          params: on the mesh if there is one.
          dtype: of the computation.
          tokenizer_source: the directory that holds the tokenizer; only `chat` needs one.
          as_trained: how prompts are cut into pieces: as training cuts them, or as the original's
            processor does (text/conversation.py, tokenize_prompt).
        """
        self.config = config
        self.params = params
        self._compute = Compute(dtype=jnp.dtype(dtype))
        self._tokenizer_source = tokenizer_source
        self._mesh = mesh
        self.as_trained = as_trained

    def num_tokens(self, medium: str, frames: int = NUM_FRAMES) -> int:
        """Tokens of a sequence that an "image", or a "video" of so many frames, takes: as many -1,
        or -2, stand for it in `input_ids`. Raises UserError for another medium."""
        return self.config.num_tokens(medium, frames)

    def logits(
        self, input_ids: Any, images: Any = None, videos: Any = None, attention_mask: Any = None
    ) -> jax.Array:
        """float32[B, L, V]; arguments and errors as `generate`. Rows of padding hold anything."""
        prompt = prompt_arrays(self.config, input_ids, attention_mask, images, videos)
        with uninterrupted(), self._on_mesh(len(prompt.lengths)):
            compute, params = self._form
            logits = _forward(
                self.config,
                compute,
                params,
                prompt.input_ids,
                prompt.positions,
                np.ones_like(prompt.key_segments),
                prompt.media_index,
                prompt.images,
                prompt.videos,
                key_segments=prompt.key_segments,
            )
            jax.block_until_ready(logits)
        return logits[:, : np.shape(input_ids)[1]]

    def generate(
        self,
        input_ids: Any,
        images: Any = None,
        videos: Any = None,
        attention_mask: Any = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        eos_token_id: int | None = None,
    ) -> np.ndarray:
        """Continues a batch of prompts; each row gets what it would get alone (drawn tokens: what a
        row gets at its place, whatever the others are).

        Args:
          input_ids: int[B, L]; at media positions -1 (image) or -2 (video), num_tokens("image") of
            them for each medium.
          images: [N, S, S, 3], videos: [M, T, S, S, 3], in reading order over the batch; float
            normalised, or uint8.
          attention_mask: [B, L], 0 on padding, which is at the left or the right of a row.
          temperature: 0 takes the likeliest token. top_k, top_p: see Sampling.
          seed: 0 .. 2**63 - 1, of the drawing.
          eos_token_id: ends a row; by default the tokenizer's, or the config's where there is no
            tokenizer. -1 never.

        Returns: int32[B, max_new_tokens], the new tokens only, the pad id after the end.
        Raises UserError for wrong input, or more positions than the model has. An interrupt is
        raised when the device has finished what it is at, a few tokens.
        """
        sampling, key = Sampling.of(temperature, top_k, top_p), random_key(seed)
        max_new_tokens = whole_number(max_new_tokens, "max_new_tokens", 1)
        if eos_token_id is None:
            eos_id = self._end_id
        else:
            eos_id = whole_number(eos_token_id, "eos_token_id", -1, self.config.llm.vocab_size - 1)
        prompt = prompt_arrays(self.config, input_ids, attention_mask, images, videos)
        if max_new_tokens > (fitting := self._fitting(prompt, max_new_tokens)):
            raise UserError(
                f"max_new_tokens is {max_new_tokens}, but after {prompt.lengths.max()} tokens of "
                f"prompt the model has positions for {fitting}; lower it or shorten the prompt"
            )
        with self._on_mesh(len(prompt.lengths)):
            compute, params = self._form
            return generate(
                self.config,
                compute,
                params,
                prompt,
                max_new_tokens,
                sampling,
                key,
                eos_id,
            )

    def chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        images: ImageSource | Any | Iterable[ImageSource | Any] | None = None,
        videos: VideoSource | Any | Iterable[VideoSource | Any] | None = None,
        stream: bool = False,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        num_frames: int = NUM_FRAMES,
    ) -> str | Iterator[str]:
        """Answers a conversation.

        Args:
          messages: OpenAI-style, or the original's prompt text (text/conversation.py). A
            part may hold its picture or video: {"type": "image_url", "image_url": {"url": ...}},
            {"type": "image", "image": ...} with "path", "url", "base64" or "bytes" instead of the
            second "image", {"type": "video", "video": ...}, {"type": "input_image", ...}.
          images: one for each image mark that has none in its part, in order: a path, a data URL or
            file URL, bytes of a file, an open binary file, a PIL image, an array
            uint8[height, width, 3] or grey uint8[height, width] of any library. One of these, or
            several in any iterable, or as uint8[N, height, width, 3].
          videos: likewise: a file, its bytes, a folder of frames, a list of pictures, or
            uint8[T, height, width, 3]; several in an iterable, or as uint8[M, T, height, width, 3].
          stream: return an iterator of the answer's pieces as they come, instead of all of it.
          seed: 0 .. 2**63 - 1, of the drawing.
          num_frames: taken of each video, at most 1,024.

        Returns: the answer up to the model's end mark, its next question, `max_new_tokens` or the
        last position that the model has.
        Raises UserError for a wrong conversation, media that cannot be read or do not match their
        marks, a model without tokenizer, a prompt that is too long (PromptTooLong); all before the
        first piece. An interrupt is raised when the device has finished what it is at, a few
        tokens; an iterator may be dropped at any time.
        """
        stream = truth(stream, "stream")
        sampling, key = Sampling.of(temperature, top_k, top_p), random_key(seed)
        max_new_tokens = whole_number(max_new_tokens, "max_new_tokens", 1)
        num_frames = whole_number(num_frames, "num_frames", 1, MOST_FRAMES)
        messages, pictures, clips = take_out(messages, images, videos)
        # Halves of characters come from bytes that are not UTF-8; no tokenizer takes them.
        text = _SURROGATE.sub("\ufffd", prompt_from_messages(messages))
        if len(text) > longest_text(self._positions):
            raise self._too_long(f"{len(text):,} characters")
        check_media(text, len(pictures), len(clips), "the conversation")
        size = self.config.vision.image_size
        ids = tokenize_prompt(
            text,
            self.tokenizer,
            self.config.media_length,
            as_trained=self.as_trained,
            max_length=self._positions,
        )
        prompt = prompt_arrays(
            self.config,
            ids[None],
            images=[preprocess_image(open_picture(picture), size) for picture in pictures],
            videos=[open_clip(clip, num_frames, size) for clip in clips],
        )
        max_new_tokens = self._fitting(prompt, max_new_tokens)
        tokens = self._stream(prompt, max_new_tokens, sampling, key)
        pieces = up_to(_NEXT_TURN, words(tokens, self.tokenizer))
        return pieces if stream else "".join(pieces)

    def save(self, path: str | Path, format: str = "huggingface") -> None:
        """Writes the model to a new directory, whole or not at all.

        format: "huggingface" (the original's names, an adapter merged into the language model),
          "orbax" (our own, the adapter kept apart) or "peft" (the adapter alone).

        Raises UserError for int8 weights, and as checkpoint/model_directory.py, save_model.
        """
        if any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(self.params)):
            raise UserError("int8 weights are not saved; load the model as bfloat16 to save it")
        model_directory.save_model(
            Path(path),
            self.config,
            self.params,
            format,
            self._tokenizer_source,
            as_trained=self.as_trained,
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Raises UserError if there is none, or it is another model's."""
        if self._tokenizer_source is None:
            raise UserError("this model has no tokenizer; only chat needs one")
        tokenizer = load_tokenizer(self._tokenizer_source)
        check_vocabulary(tokenizer, self.config.llm.vocab_size, self._tokenizer_source)
        return tokenizer

    @cached_property
    def _end_id(self) -> int:
        """What ends an answer: config.json of a fine-tuned model may still name its base's end."""
        source = self._tokenizer_source
        if source is None or not has_tokenizer(source):
            return self.config.llm.eos_token_id
        return self.tokenizer.eos_id

    @cached_property
    def _form(self) -> tuple[Compute, Params]:
        return quickest_form(self._compute, self.params)

    @property
    def _positions(self) -> int:
        """Of a prompt and its answer together, at most."""
        return self.config.llm.max_length

    def _too_long(self, found: str) -> PromptTooLong:
        return PromptTooLong(
            f"the prompt takes {found} and leaves no room for an answer: the model has "
            f"{self._positions}; shorten the conversation"
        )

    def _fitting(self, prompt: Prompt, wanted: int) -> int:
        """How many of `wanted` new tokens the model has positions for; at least 1."""
        length = int(prompt.lengths.max())
        if length >= self._positions:
            raise self._too_long(f"{length} positions")
        return min(wanted, self._positions - length)

    def _stream(
        self, prompt: Prompt, max_new_tokens: int, sampling: Sampling, key: jax.Array
    ) -> Iterator[int]:
        """The tokens of a one-row prompt's answer as they come, without the end mark.

        The device is idle whenever a token is handed out, so the iterator may be dropped.
        """
        eos_id, capacity = self.tokenizer.eos_id, round_up(max_new_tokens)
        with uninterrupted(), self._on_mesh(1):
            compute, params = self._form
            state = prefill(self.config, compute, params, prompt, sampling, key, eos_id, capacity)
            jax.block_until_ready(state)
        sent = 0
        while True:
            tokens, count = np.array(state.tokens)[0], int(state.count)
            for token in tokens[sent:count]:
                if token == eos_id:
                    return
                yield int(token)
            sent = count
            if count >= max_new_tokens:
                return
            until = min(count + _STREAM_CHUNK, max_new_tokens)
            with uninterrupted(), self._on_mesh(1):
                state = decode(self.config, compute, params, state, until)
                jax.block_until_ready(state)

    @contextmanager
    def _on_mesh(self, rows: int) -> Iterator[None]:
        if self._mesh is None:
            yield
            return
        rules = LogicalRules()
        if rows % num_batch_shards(self._mesh):
            rules = dataclasses.replace(rules, batch=None)
        with jax.set_mesh(self._mesh), nn.logical_axis_rules(rules.flax_rules()):
            yield
