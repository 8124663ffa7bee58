"""Format: data that says how to write a conversation. ConversationFormat: the interface."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, Protocol

from msgspec import Meta

from owl_jax.errors import UserError, shown
from owl_jax.text.tokenizer import Tokenizer
from owl_jax.text.turns import Content, Turn

_Text = Annotated[str, Meta(max_length=100_000)]
_Stop = Annotated[str, Meta(min_length=1, max_length=100_000)]  # "" would cut off every answer
_Stops = Annotated[tuple[_Stop, ...], Meta(max_length=1000)]
_Texts = Annotated[tuple[_Text, ...], Meta(max_length=1000)]


class Piece(NamedTuple):
    """A piece of a conversation, tokenised as a unit.

    kind: "answer" and "end" are trained on, "prompt" and "media" are not.
    text: for "end", the token that ends the answer, or "" for the tokenizer's EOS.
    medium: the input id of a medium.
    """

    kind: Literal["prompt", "answer", "end", "media"]
    text: str = ""
    medium: int = 0


class ConversationFormat(Protocol):
    """What `Format` and a model's own ChatTemplate provide for training and chat."""

    @property
    def name(self) -> str:
        """The name in configs and messages."""
        ...

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts at which chat cuts off an answer that runs on."""
        ...

    @property
    def keeps_margins(self) -> bool:
        """Whether it takes messages with the white space at their ends."""
        ...

    @property
    def answer_start(self) -> str:
        """Text that precedes each answer and is not part of it."""
        ...

    def pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        """A finished conversation. Raises UserError if the format cannot express it."""
        ...

    def prompt(self, turns: Sequence[Turn]) -> list[Piece]:
        """A conversation up to its next answer, or to the end of its unfinished one.

        Raises UserError if the format cannot express it.
        """
        ...

    def begins_with_bos(self, tokenizer: Tokenizer) -> bool:
        """Whether BOS precedes the first piece."""
        ...

    def reserved_by(self, tokenizer: Tokenizer) -> Iterable[str]:
        """Texts that a message must not contain."""
        ...


@dataclass(frozen=True)
class Format:
    """A conversation format. A pair is (text before, text after).

    name: not a built-in one; letters, digits and _.
    user: around each of the user's messages.
    answer_mark: before each answer, not trained on; a prompt ends with it.
    answer: around each nonempty answer, also trained on.
    end: the token that ends an answer, trained on; "" for the tokenizer's EOS.
    after_end: after that token, not trained on.
    system: around the system message. default_system: for conversations without one; "" for none.
    system_in_user: puts the system message inside the user's first message.
    between: before each of the user's messages but the first.
    after_media: replaces a newline right after a medium.
    tokens: texts that, like `end`, must each be one token of the tokenizer.
    reserved: more texts that a message must not contain; a space breaks them up.
    stops: texts at which chat cuts off an answer that runs on.
    always_bos: begin with BOS if the tokenizer has one, even if its files say not to add it.
    """

    name: Annotated[str, Meta(pattern="^[A-Za-z0-9_]{1,100}$")]
    user: tuple[_Text, _Text]
    answer_mark: _Text
    answer: tuple[_Text, _Text] = ("", "")
    end: _Text = ""
    after_end: _Text = ""
    system: tuple[_Text, _Text] = ("", "")
    default_system: _Text = ""
    system_in_user: bool = False
    between: _Text = ""
    after_media: _Text = "\n"
    tokens: _Texts = ()
    reserved: _Texts = ()
    stops: _Stops = ()
    always_bos: bool = False

    @property
    def keeps_margins(self) -> bool:
        """See ConversationFormat: its own texts separate the messages."""
        return False

    @property
    def answer_start(self) -> str:
        """See ConversationFormat."""
        return self.answer[0]

    def pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        """See ConversationFormat."""
        return merged(self._pieces(turns, is_prompt=False))

    def prompt(self, turns: Sequence[Turn]) -> list[Piece]:
        """See ConversationFormat."""
        return merged(self._pieces(turns, is_prompt=True))

    def end_ids(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """The id of `end`, if there is one."""
        id = tokenizer.token_id(self.end) if self.end else None
        return () if id is None else (id,)

    def begins_with_bos(self, tokenizer: Tokenizer) -> bool:
        """See ConversationFormat."""
        return self.always_bos or tokenizer.adds_bos

    def reserved_by(self, tokenizer: Tokenizer) -> Iterable[str]:
        """See ConversationFormat."""
        marks = {*self.tokens, *self.reserved, self.end, *tokenizer.special_tokens.values()}
        return marks - {""}

    def check(self, tokenizer: Tokenizer, source: str) -> None:
        """Raises UserError if the tokenizer, from `source`, lacks a token of the format."""
        for token in filter(None, (*self.tokens, self.end)):
            if tokenizer.token_id(token) is None:
                raise UserError(
                    f"{source}: the conversation format {self.name} needs the token "
                    f"{shown(token)}, which the tokenizer does not have; name the format that the "
                    "model was trained with (config.model.conversation), or add the token to the "
                    "tokenizer's files"
                )

    def _pieces(self, turns: Sequence[Turn], is_prompt: bool) -> Iterator[Piece]:
        system: tuple[Content, ...] = (self.default_system,) if self.default_system else ()
        if turns and turns[0].role == "system":
            system, turns = turns[0].contents, turns[1:]
        before = list(self._around(self.system, system, "prompt")) if system else []
        if not (self.system_in_user and turns and turns[0].role == "user"):
            yield from before
            before = []
        for number, turn in enumerate(turns):
            if turn.role == "user":
                yield Piece("prompt", (self.between if number else "") + self.user[0])
                yield from before
                yield from self._around(("", self.user[1]), turn.contents, "prompt")
                before = []
                continue
            yield Piece("prompt", self.answer_mark)
            is_open = is_prompt and number == len(turns) - 1
            if turn.contents:
                around = (self.answer[0], "" if is_open else self.answer[1])
                yield from self._around(around, turn.contents, "answer")
            if not is_open:
                yield Piece("end", self.end)
                yield Piece("prompt", self.after_end)
        if is_prompt and not (turns and turns[-1].role == "assistant"):
            yield Piece("prompt", self.answer_mark)

    def _around(
        self,
        around: tuple[str, str],
        contents: Sequence[Content],
        kind: Literal["prompt", "answer"],
    ) -> Iterator[Piece]:
        yield Piece(kind, around[0])
        before: Content = ""
        for content in contents:
            if isinstance(content, int):
                yield Piece("media", medium=content)
            elif isinstance(before, int) and content.startswith("\n"):
                yield Piece(kind, self.after_media + content[1:])
            else:
                yield Piece(kind, content)
            before = content
        yield Piece(kind, around[1])


def merged(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces without empty texts, with adjacent texts of the same kind joined."""
    found: list[Piece] = []
    for piece in pieces:
        is_text = piece.kind in ("prompt", "answer")
        if is_text and not piece.text:
            continue
        if is_text and found and found[-1].kind == piece.kind:
            found[-1] = Piece(piece.kind, found[-1].text + piece.text)
        else:
            found.append(piece)
    return found
