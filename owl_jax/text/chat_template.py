"""A model's own chat template: Jinja from its directory, rendered in a sandbox.

    chat_template.jinja      the template
    chat_template.json       {"chat_template": ...}
    tokenizer_config.json    chat_template: a string, or [{"name": "default", "template": ...}, ...]

The first file that has a template is used. A template sees what transformers gives it (messages,
add_generation_prompt, the special tokens, raise_exception), but not the date (strftime_now), which
would make data depend on the day.

{% generation %} blocks mark what is trained on. Without them, an answer is what messages[:k + 1]
adds to messages[:k] with the generation prompt. A template whose renderings are not prefixes of
each other is refused, because it writes earlier answers differently from the last one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from owl_jax.errors import UserError, shown
from owl_jax.files import read_json
from owl_jax.text.formats.format import Piece, merged
from owl_jax.text.media_index import IMAGE_ID, VIDEO_ID
from owl_jax.text.special_tokens import CONFIG_FILE
from owl_jax.text.template_sandbox import END, START, render
from owl_jax.text.tokenizer import Tokenizer
from owl_jax.text.tokenizer_files import is_there, read_file
from owl_jax.text.turns import Turn

TEMPLATE_FILE, JSON_FILE = "chat_template.jinja", "chat_template.json"
CHAT_TEMPLATE = "chat_template"  # the name of the format

_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")

# Stand-ins for media in a message: private characters that no text contains.
_PLACES = {IMAGE_ID: "\U000ffff0", VIDEO_ID: "\U000ffff1"}
_NO_PRIVATE = dict.fromkeys(map(ord, (*_PLACES.values(), START, END)))

_KINDS = {IMAGE_ID: "image", VIDEO_ID: "video"}
_PROBE = "An owl"  # a message that templates write unchanged
# A medium's tag within what a template writes for it: <|image_pad|> in
# <|vision_start|><|image_pad|><|vision_end|>.
_TAG = re.compile(r"<[^<>\s]*(?:image|video)[^<>\s]*>|\[IMG\]", re.IGNORECASE)

# A generation block in rendered text; adjacent ones are merged.
_BLOCK = re.compile(f"{START}(?:[^{END}]|{END}{START})*{END}")

_Media = Mapping[int, str]  # how a template writes a medium, by its input id


@dataclass(frozen=True)
class ChatTemplate:
    """A template as a conversation format.

    source: the template. path: its file, for errors. tokens: its variables such as bos_token.
    ends: the tokens that end an answer. marks: special tokens, which a message must not contain.
    """

    source: str
    path: str
    tokens: tuple[tuple[str, str], ...] = ()
    ends: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    name: str = CHAT_TEMPLATE
    stops: tuple[str, ...] = ()
    answer_start: str = ""

    def pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        """See ConversationFormat. Raises UserError if the text to train on is unclear."""
        style = self._style
        messages = list(map(style.message, turns))
        whole = self._render(messages)
        answers = [k for k, turn in enumerate(turns) if turn.role == "assistant"]
        if START in whole:
            spans = [self._block(whole, *found.span()) for found in _BLOCK.finditer(whole)]
            if len(spans) != len(answers):
                raise self._refused(
                    f"has {len(spans)} {{% generation %}} blocks for {len(answers)} answers; each "
                    "answer needs one"
                )
        else:
            spans = [self._answer(turns, messages, whole, k) for k in answers]
        return self._cut(whole, spans, turns)

    def prompt(self, turns: Sequence[Turn]) -> list[Piece]:
        """See ConversationFormat."""
        style = self._style
        asked, begun = list(turns), ""
        if turns and turns[-1].role == "assistant":
            begun = _Style(False, style.media).message(asked.pop())["content"]
        text = self._render(list(map(style.message, asked)), add_generation_prompt=True)
        return self._cut(text + begun, [], turns)

    @property
    def keeps_margins(self) -> bool:
        """See ConversationFormat: as in transformers, a template trims messages itself or not."""
        return True

    def begins_with_bos(self, tokenizer: Tokenizer) -> bool:
        """See ConversationFormat: the template writes BOS itself."""
        return False

    def reserved_by(self, tokenizer: Tokenizer) -> Iterable[str]:
        """See ConversationFormat."""
        return {*self.marks, *self._style.media.values()}

    def check_masks(self) -> None:
        """Raises UserError, with the reason, if a two-round conversation has no clear mask."""
        turns = [Turn(role, (_PROBE,)) for role in ("user", "assistant", "user", "assistant")]
        found = [piece.text for piece in self.pieces(turns) if piece.kind == "answer"]
        if len(found) != 2 or not all(_PROBE in text for text in found):
            raise self._refused("does not write two answers unchanged")

    @property
    def _style(self) -> _Style:
        return _style_of(self)

    def _block(self, whole: str, start: int, end: int) -> tuple[int, int]:
        """The answer's span in a generation block.

        A space before the block belongs to the answer's first word, unless prompts end with it.
        """
        if whole[:start].endswith(" ") and not self._style.prompts_end_with_space:
            start -= 1
        return start, end

    def _answer(
        self, turns: Sequence[Turn], messages: Sequence[Any], whole: str, k: int
    ) -> tuple[int, int]:
        """The span of turn `k`'s answer in the whole conversation."""
        asked = self._render(messages[:k], add_generation_prompt=True)
        answered = self._render(messages[: k + 1])
        before = self._render(messages[:k]) if k else ""
        where = f"answer {sum(turn.role == 'assistant' for turn in turns[: k + 1])}"
        if not asked.startswith(before):
            wrong = "the generation prompt is not added at the end"
        elif not answered.startswith(asked):
            wrong = f"{where} does not begin after the generation prompt"
        elif not whole.startswith(answered):
            wrong = f"{where} is written differently when more messages follow"
        else:
            return len(asked), len(answered)
        raise self._refused(f"cannot be used for training: {wrong}, so what to train on is unclear")

    def _cut(
        self, text: str, spans: Sequence[tuple[int, int]], turns: Sequence[Turn]
    ) -> list[Piece]:
        """The pieces of a rendered text. spans: of the answers (see _ended).

        Raises UserError if it has too few or too many media.
        """
        media = self._style.media
        pieces: list[Piece] = []
        position = 0
        for start, end in spans:
            pieces += _with_media(text[position:start], "prompt", media)
            answer, ending, position = self._ended(text, start, end)
            pieces += _with_media(answer, "answer", media)
            pieces.append(Piece("end", ending))
        pieces += _with_media(text[position:], "prompt", media)
        for medium, kind in _KINDS.items():
            given = sum(turn.contents.count(medium) for turn in turns)
            written = sum(piece.medium == medium for piece in pieces)
            if written != given:
                raise self._refused(f"writes {written} {kind}(s); the conversation has {given}")
        return merged(piece._replace(text=piece.text.translate(_NO_PRIVATE)) for piece in pieces)

    def _ended(self, text: str, start: int, end: int) -> tuple[str, str, int]:
        """An answer, the token that ends it, and where the rest begins.

        The token may come directly after the answer's span. Without one, EOS is used: a model that
        never sees an end would not stop.
        """
        if self.ends:
            pattern = re.compile("|".join(map(re.escape, self.ends)))
            if found := pattern.search(text, start, end):
                return text[start : found.start()], found[0], found.end()
            following = len(text) - len(text[end:].lstrip(f"{START}{END} \n"))
            if found := pattern.match(text, following):
                return text[start:following], found[0], found.end()
        return text[start:end], "", end

    def _render(self, messages: Sequence[Any], add_generation_prompt: bool = False) -> str:
        """Raises a one-line UserError for whatever the template raises."""
        variables = {
            **dict(self.tokens),
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
        }
        return render(self.source, variables, self.path)

    def _refused(self, reason: str) -> UserError:
        return UserError(f"{self.path}: the chat template {reason}")


class _Style(NamedTuple):
    """How a template takes content (as parts or as text) and how it writes media."""

    as_parts: bool
    media: _Media
    prompts_end_with_space: bool = False

    def message(self, turn: Turn) -> dict[str, Any]:
        contents = [
            content if isinstance(content, int) else content.translate(_NO_PRIVATE)
            for content in turn.contents
        ]
        if not self.as_parts:
            texts = (self.media[c] if isinstance(c, int) else c for c in contents)
            return {"role": turn.role, "content": "".join(texts)}
        parts: list[dict[str, str]] = []
        for before, content in zip(["", *contents], contents, strict=False):
            if isinstance(content, int):
                tag = self.media[content]
                is_text = tag in _PLACES.values()
                parts.append(
                    {"type": "text", "text": tag} if is_text else {"type": _KINDS[content]}
                )
            else:
                # The template itself separates a medium from the text.
                text = content.removeprefix("\n") if isinstance(before, int) else content
                parts.append({"type": "text", "text": text})
        return {"role": turn.role, "content": parts or [{"type": "text", "text": ""}]}


@functools.lru_cache(maxsize=8)
def _style_of(template: ChatTemplate) -> _Style:
    """Whether a template takes content as parts (multimodal models' do), and how it writes media.

    Raises UserError if it takes content neither as parts nor as text.
    """
    text = {"type": "text", "text": _PROBE}

    def shown_as(medium: int) -> str:
        """The template's tag for a medium; the private character if it ignores the part."""
        try:
            without = template._render([{"role": "user", "content": [text]}])
            part = {"type": _KINDS[medium]}
            shown = template._render([{"role": "user", "content": [part, text]}])
        except UserError:
            return _PLACES[medium]
        tags = _TAG.findall(_difference(without, shown))
        return tags[0] if tags else _PLACES[medium]

    def style(as_parts: bool, media: _Media, content: Any) -> _Style:
        asked = [{"role": "user", "content": content}]
        prompt = template._render(asked, add_generation_prompt=True)
        return _Style(as_parts, media, prompt.endswith(" "))

    try:
        written = template._render([{"role": "user", "content": [text]}])
    except UserError:
        written = ""
    # A text-only template may print the list as is.
    if _PROBE in written and "'type'" not in written and '"type"' not in written:
        image, video = map(shown_as, (IMAGE_ID, VIDEO_ID))
        # A shared tag would not say which medium it stands for.
        media = {IMAGE_ID: image, VIDEO_ID: _PLACES[VIDEO_ID] if video == image else video}
        return style(True, media, [text])
    written = template._render([{"role": "user", "content": _PROBE}])
    if _PROBE not in written:
        raise template._refused("does not write the user's message")
    return style(False, _PLACES, _PROBE)


def _difference(short: str, long: str) -> str:
    """The part of `long` between the prefix and the suffix that it shares with `short`."""
    end = 0
    while end < min(len(short), len(long)) and short[-1 - end] == long[-1 - end]:
        end += 1
    start = 0
    while start < len(short) - end and short[start] == long[start]:
        start += 1
    return long[start : len(long) - end]


def _with_media(text: str, kind: Literal["prompt", "answer"], media: _Media) -> Iterator[Piece]:
    """The pieces of a text that writes media as `media` says."""
    by_tag = {tag: medium for medium, tag in media.items()} | {
        place: medium for medium, place in _PLACES.items()
    }
    # One group: split returns text at even indices, tags at odd ones.
    for i, part in enumerate(re.split(f"({'|'.join(map(re.escape, by_tag))})", text)):
        yield Piece("media", medium=by_tag[part]) if i % 2 else Piece(kind, part)


def has_chat_template(directory: Path) -> bool:
    """Whether a model's directory has a chat template; `read_chat_template` checks it."""
    files = [path for name in (JSON_FILE, CONFIG_FILE) if is_there(path := directory / name)]
    return is_there(directory / TEMPLATE_FILE) or any(
        read_json(path).get(CHAT_TEMPLATE) is not None for path in files
    )


def read_chat_template(directory: Path, tokenizer: Tokenizer, ends: Sequence[int]) -> ChatTemplate:
    """The chat template of a model's directory.

    ends: the ids that end an answer. Raises UserError if the template is missing or damaged.
    """
    found = _find(directory)
    if found is None:
        raise UserError(
            f"{directory}: no chat template, neither in {TEMPLATE_FILE} nor in {CONFIG_FILE}; copy "
            "one there, or name a conversation format (config.model.conversation)"
        )
    path, source = found
    values = read_json(directory / CONFIG_FILE) if is_there(directory / CONFIG_FILE) else {}
    tokens = {name: _content(values.get(name)) for name in _ROLES}
    special = tokenizer.special_tokens
    # If the files do not name these, the tokenizer does.
    if tokens["bos_token"] is None and "bos_token" not in values and tokenizer.bos_id is not None:
        tokens["bos_token"] = special.get(tokenizer.bos_id)
    if tokens["eos_token"] is None:
        tokens["eos_token"] = special.get(tokenizer.eos_id)
    template = ChatTemplate(
        source,
        str(path),
        tuple((name, token) for name, token in tokens.items() if token is not None),
        tuple(special[id] for id in ends if id in special),
        tuple(sorted(special.values())),
    )
    template._style  # noqa: B018  raises if the template cannot be rendered
    return template


def _find(directory: Path) -> tuple[Path, str] | None:
    path = directory / TEMPLATE_FILE
    if is_there(path):
        try:
            return path, read_file(path, "chat template").decode()
        except UnicodeDecodeError:
            raise UserError(f"{path}: not UTF-8; copy the file again") from None
    for name in (JSON_FILE, CONFIG_FILE):
        path = directory / name
        if not is_there(path):
            continue
        found = read_json(path).get(CHAT_TEMPLATE)
        if isinstance(found, list):
            named = [item for item in found if isinstance(item, dict)]
            defaults = [item.get("template") for item in named if item.get("name") == "default"]
            found = defaults[-1] if defaults else found
        if isinstance(found, str):
            return path, found
        if found is not None:
            raise UserError(
                f"{path}: {CHAT_TEMPLATE} is {shown(found)}; expected text, or a list with a "
                '"default" template'
            )
    return None


def _content(token: Any) -> str | None:
    """A token's content in tokenizer_config.json."""
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) else None
