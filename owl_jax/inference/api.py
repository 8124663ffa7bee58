"""`Owl`: the model that `owl_jax.load` returns, with logits, generate, chat and save.

Letters: B sequences, L tokens, N images, M videos, T frames, S image side, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from owl_jax.checkpoint import model_directory
from owl_jax.errors import UserError
from owl_jax.inference.arguments import MAX_NEW_TOKENS, NUM_FRAMES, boolean, whole_number
from owl_jax.inference.core import without_adapters
from owl_jax.inference.generate import Batch, generate, new_tokens
from owl_jax.inference.given_media import MOST_FRAMES, open_clip, open_picture, take_out
from owl_jax.inference.interrupts import uninterrupted
from owl_jax.inference.layouts import quickest_form
from owl_jax.inference.prompt import Prompt, prompt_arrays
from owl_jax.inference.requests import ChatPrompt
from owl_jax.inference.sampling import Sampling, check_seed
from owl_jax.inference.text_stream import AnswerText, answer_pieces
from owl_jax.media.image import ImageSource, preprocess_image
from owl_jax.media.video import VideoSource
from owl_jax.models.compute import Compute
from owl_jax.models.config import OwlConfig
from owl_jax.models.vlm import Params, forward
from owl_jax.parallel.sharding import on_mesh
from owl_jax.text.conversation import (
    check_media,
    count_media,
    longest_text,
    tokenize_prompt,
)
from owl_jax.text.end_ids import distinct, read_end_ids
from owl_jax.text.formats.choose import choose_format, end_ids_of
from owl_jax.text.formats.format import ConversationFormat
from owl_jax.text.messages import prompt_from_messages
from owl_jax.text.tokenizer import Tokenizer, check_vocabulary, has_tokenizer, load_tokenizer

_STREAM_CHUNK = 8  # tokens decoded per dispatch while streaming

_SURROGATE = re.compile("[\ud800-\udfff]")

_forward = jax.jit(forward, static_argnames=("config", "compute"))


class PromptTooLong(UserError):
    """The prompt leaves no room for an answer."""


class Owl:
    """A model with its weights on the device.

    config: the model's.
    params: {"vision", "connector", "llm", ["lora"]} of jax.Arrays, read only; without the first two
      if the model takes text only.
    as_trained: whether prompts are tokenised as in training.
    cache_dtype: of cached keys and values, "auto" or "int8" (models/compute.py).
    """

    def __init__(
        self,
        config: OwlConfig,
        params: Params,
        dtype: Any = jnp.float32,
        tokenizer_source: Path | None = None,
        mesh: Mesh | None = None,
        as_trained: bool = True,
        adapters: tuple[str, ...] = (),
        cache_dtype: str = "auto",
    ):
        """Wraps weights that are in memory; inference/load.py reads them from a directory.

        Args:
          params: on the mesh if there is one.
          dtype: of the computation.
          tokenizer_source: the tokenizer's directory; only `chat` needs one.
          as_trained: tokenise prompts as in training; otherwise as the original's processor does
            (text/conversation.py, tokenize_prompt).
          adapters: names of the adapters that `params` has side by side (models/lora.py); the
            engine's requests choose among them, `generate` and `chat` use none.
        """
        self.config = config
        self.params = params
        self._compute = Compute(dtype=jnp.dtype(dtype), cache_dtype=cache_dtype)
        self._tokenizer_source = tokenizer_source
        self.mesh = mesh
        self.as_trained = as_trained
        self.adapters = adapters
        self.cache_dtype = cache_dtype

    def with_params(self, config: OwlConfig, params: Params) -> Owl:
        """A model of other weights with the same tokenizer, on the same devices.

        params: in the form of `Owl.params`, for `config`.
        """
        return Owl(
            config,
            params,
            self._compute.dtype,
            self._tokenizer_source,
            self.mesh,
            as_trained=self.as_trained,
            cache_dtype=self.cache_dtype,
        )

    def num_tokens(self, medium: str, frames: int = NUM_FRAMES) -> int:
        """Tokens that an "image", or a "video" of `frames` frames, takes in a sequence: the number
        of -1 (image) or -2 (video) in `input_ids`. Raises UserError for another medium."""
        return self.config.num_tokens(medium, frames)

    def logits(
        self, input_ids: Any, images: Any = None, videos: Any = None, attention_mask: Any = None
    ) -> jax.Array:
        """float32[B, L, V], undefined on padding; arguments and errors are those of `generate`."""
        prompt = prompt_arrays(self.config, input_ids, attention_mask, images, videos)
        positions = np.broadcast_to(np.arange(prompt.input_ids.shape[1]), prompt.input_ids.shape)
        segments = (positions < prompt.lengths[:, None]).astype(np.int32)
        with uninterrupted(), on_mesh(self.mesh, len(prompt.lengths)):
            compute, params = self.compiled_form
            config, params = without_adapters(self.config, params)
            logits = _forward(
                config,
                compute,
                params,
                prompt.input_ids,
                positions,
                np.ones_like(segments),
                prompt.media_index,
                prompt.images,
                prompt.videos,
                key_segments=segments,
            )
            if attention_mask is not None:  # padding goes back to where the caller has it
                first = np.argmax(np.asarray(attention_mask) == 1, axis=1)
                shifted = (positions - first[:, None]) % positions.shape[1]
                logits = jnp.take_along_axis(logits, shifted[:, :, None], axis=1)
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
        eos_token_id: int | Sequence[int] | None = None,
    ) -> np.ndarray:
        """Continues a batch of prompts. Greedy results do not depend on the rest of the batch;
        sampled ones depend only on the sequence's index in it.

        Args:
          input_ids: int[B, L]; -1 for an image, -2 for a video, `num_tokens` of them for each.
          images: [N, S, S, 3], videos: [M, T, S, S, 3], in reading order over the batch; float
            normalised, or uint8.
          attention_mask: [B, L], 0 on padding, on the left or the right of a sequence.
          temperature: 0 is greedy. top_k, top_p: see Sampling.
          seed: of the sampler, 0 .. 2**63 - 1.
          eos_token_id: ends a sequence; several in a list. By default those of the tokenizer, the
            conversation format and generation_config.json, or the config's without a tokenizer. -1
            never stops.

        Returns: int32[B, max_new_tokens], new tokens only, pad ids after the end.
        Raises UserError for invalid input, for media given to a language model alone, and for more
        tokens than the model's maximum. An interrupt is raised a few tokens later, when the device
        is idle.
        """
        sampling, seed = Sampling.of(temperature, top_k, top_p), check_seed(seed)
        max_new_tokens = whole_number(max_new_tokens, "max_new_tokens", 1)
        if eos_token_id is None:
            end_ids = self.end_ids
        else:
            given = eos_token_id if isinstance(eos_token_id, list | tuple) else [eos_token_id]
            most = self.config.llm.vocab_size - 1
            end_ids = tuple(whole_number(id, "eos_token_id", -1, most) for id in given)
        prompt = prompt_arrays(self.config, input_ids, attention_mask, images, videos)
        if max_new_tokens > (room := self._room(prompt, max_new_tokens)):
            raise UserError(
                f"max_new_tokens is {max_new_tokens}, but after {prompt.lengths.max()} tokens of "
                f"prompt the model has room for {room}; lower it or shorten the prompt"
            )
        compute, params = self.compiled_form
        batch = Batch(prompt, max_new_tokens, sampling, seed, end_ids)
        on_device = partial(on_mesh, self.mesh, len(prompt.lengths))
        return generate(self.config, compute, params, batch, on_device)

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
          messages: OpenAI-style, or the original's prompt text (text/conversation.py); both are
            written in the model's conversation format. A part may contain its image or video:
            {"type": "image_url", "image_url": {"url": ...}}, {"type": "image", "image": ...} with
            "path", "url", "base64" or "bytes" instead of the second "image", {"type": "video",
            "video": ...}, {"type": "input_image", ...}.
          images: one for each image mark without an image in its part, in order: a path, a data or
            file URL, bytes of a file, an open binary file, a PIL image, an array
            uint8[height, width, 3] or grey uint8[height, width] of any library. Pass a single
            image, an iterable, or uint8[N, height, width, 3].
          videos: likewise: a file, its bytes, a folder of frames, a list of images, or
            uint8[T, height, width, 3]; several in an iterable, or as uint8[M, T, height, width, 3].
          stream: return an iterator over pieces of the answer.
          seed: of the sampler, 0 .. 2**63 - 1.
          num_frames: frames sampled from each video, at most 1,024.

        Returns: the answer. It ends before a token that ends answers, before the human's next turn
        (the stop texts of the conversation format), or at `max_new_tokens` or the model's maximum
        length.
        Raises UserError, always before the first piece, for an invalid conversation, media that
        cannot be read or do not match their marks, a model without tokenizer, and a prompt that is
        too long (PromptTooLong). An interrupt is raised a few tokens later, when the device is
        idle; an iterator may be dropped at any time.
        """
        stream = boolean(stream, "stream")
        sampling, seed = Sampling.of(temperature, top_k, top_p), check_seed(seed)
        max_new_tokens = whole_number(max_new_tokens, "max_new_tokens", 1)
        chat = self.tokenize(messages, images, videos, num_frames=num_frames)
        prompt = prompt_arrays(
            self.config, chat.input_ids[None], images=chat.images, videos=chat.videos
        )
        max_new_tokens = self._room(prompt, max_new_tokens)
        tokens = self._stream(Batch(prompt, max_new_tokens, sampling, seed, self.end_ids))
        # A model that does not stop after its answer writes the human's next question.
        text = AnswerText(self.tokenizer, self.format.stops, self.format.answer_start)
        pieces = answer_pieces(tokens, text)
        return pieces if stream else "".join(pieces)

    def tokenize(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        images: ImageSource | Any | Iterable[ImageSource | Any] | None = None,
        videos: VideoSource | Any | Iterable[VideoSource | Any] | None = None,
        *,
        num_frames: int = NUM_FRAMES,
    ) -> ChatPrompt:
        """The tokens and pixels of a conversation, up to where the answer begins.

        Arguments and errors are those of `chat`. Uses no device, and may run in any thread.
        """
        num_frames = whole_number(num_frames, "num_frames", 1, MOST_FRAMES)
        messages, pictures, clips = take_out(messages, images, videos)
        # Bytes that are not UTF-8 become surrogates, which no tokenizer accepts.
        text = _SURROGATE.sub("\ufffd", prompt_from_messages(messages, margins=True))
        if len(text) > longest_text(self._max_length):
            raise self._too_long(f"{len(text):,} characters")
        if self.config.text_only and (pictures or clips or any(count_media(text))):
            raise UserError("this language model has no vision encoder: it takes text only")
        check_media(text, len(pictures), len(clips), "the conversation")
        ids = tokenize_prompt(
            text,
            self.tokenizer,
            self.config.media_lengths(num_frames),
            as_trained=self.as_trained,
            max_length=self._max_length,
            format=self.format,
        )
        size, resizing = self.config.image_size, self.config.resizing
        return ChatPrompt(
            ids,
            [preprocess_image(open_picture(picture), size, resizing) for picture in pictures],
            [open_clip(clip, num_frames, size, resizing) for clip in clips],
        )

    def save(self, path: str | Path, format: str = "huggingface") -> None:
        """Writes the model to a new directory, completely or not at all.

        format: "huggingface" (the original's names, the adapter merged into the language model),
          "orbax" (our own, the adapter separate) or "peft" (the adapter only).

        Raises UserError for int8 weights, and as save_model in checkpoint/model_directory.py does.
        """
        if self.adapters:
            raise UserError("a model with several adapters is not saved; load it with one")
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
        """The model's tokenizer. Raises UserError if there is none, or it is another model's."""
        if self._tokenizer_source is None:
            raise UserError("this model has no tokenizer; only chat needs one")
        tokenizer = load_tokenizer(self._tokenizer_source)
        check_vocabulary(tokenizer, self.config.llm.vocab_size, self._tokenizer_source)
        return tokenizer

    @cached_property
    def format(self) -> ConversationFormat:
        """The model's conversation format. Raises UserError if the tokenizer does not suit it."""
        tokenizer = self.tokenizer
        return choose_format(
            self.config.conversation, self._tokenizer_source, tokenizer, self._ends_in_files
        )

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end an answer."""
        # config.json of a fine-tuned model may still have the EOS id of its base.
        source = self._tokenizer_source
        if source is None or not has_tokenizer(source):
            return distinct((self.config.llm.eos_token_id, *self._ends_in_files))
        tokenizer = self.tokenizer
        of_format = end_ids_of(self.config.conversation, tokenizer)
        return distinct((tokenizer.eos_id, *of_format, *self._ends_in_files))

    @cached_property
    def _ends_in_files(self) -> tuple[int, ...]:
        source = self._tokenizer_source
        return () if source is None else read_end_ids(source, self.config.llm.vocab_size)

    @cached_property
    def compiled_form(self) -> tuple[Compute, Params]:
        return quickest_form(self._compute, self.params)

    @property
    def _max_length(self) -> int:
        return self.config.llm.max_length

    def _too_long(self, found: str) -> PromptTooLong:
        return PromptTooLong(
            f"the prompt takes {found} and leaves no room for an answer: the model's maximum is "
            f"{self._max_length} tokens; shorten the conversation"
        )

    def _room(self, prompt: Prompt, wanted: int) -> int:
        """How many of `wanted` new tokens fit into the model's maximum length; at least 1."""
        length = int(prompt.lengths.max())
        if length >= self._max_length:
            raise self._too_long(f"{length} tokens")
        return min(wanted, self._max_length - length)

    def _stream(self, batch: Batch) -> Iterator[int]:
        """Yields the new tokens of a single sequence, without the one that ends it.

        The device is idle at each yield, so the iterator may be dropped.
        """
        compute, params = self.compiled_form
        on_device = partial(on_mesh, self.mesh, 1)
        steps = new_tokens(self.config, compute, params, batch, on_device, _STREAM_CHUNK)
        for tokens in steps:
            if tokens[0] in batch.end_ids:
                return
            yield int(tokens[0])
