"""Chooses a model's conversation format: a built-in one, the user's own, or its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from owl_jax.errors import UserError, listed, shown
from owl_jax.python_file import objects_in_file
from owl_jax.text.chat_template import CHAT_TEMPLATE, read_chat_template
from owl_jax.text.end_ids import distinct
from owl_jax.text.formats import FORMATS
from owl_jax.text.formats.format import ConversationFormat, Format
from owl_jax.text.tokenizer import Tokenizer

NAMES = (*FORMATS, CHAT_TEMPLATE)


def name_problem(conversation: str | Format) -> str | None:
    """The error message for an invalid OwlConfig.conversation; None for a valid one."""
    if isinstance(conversation, str):
        if conversation not in NAMES:
            return (
                f"conversation is {shown(conversation)}; expected {listed(NAMES)}, or the Python "
                "file of your own format (docs/add_a_conversation_format.md)"
            )
    elif conversation.name in NAMES and FORMATS.get(conversation.name) != conversation:
        return (
            f"conversation.name is {conversation.name}, the name of a built-in format; choose "
            "another"
        )
    return None


def choose_format(
    conversation: str | Format,
    directory: Path | None,
    tokenizer: Tokenizer,
    end_ids: Sequence[int] = (),
) -> ConversationFormat:
    """The format of OwlConfig.conversation.

    directory: contains the tokenizer and the chat template. end_ids: the ids that end an answer
    according to the model's files.

    Raises UserError for an unknown name, a tokenizer without a token that the format needs, or a
    missing or unusable chat template.
    """
    if problem := name_problem(conversation):
        raise UserError(problem)
    if conversation == CHAT_TEMPLATE:
        if directory is None:
            raise UserError(f"conversation is {CHAT_TEMPLATE}, but the model has no tokenizer")
        return read_chat_template(directory, tokenizer, distinct((tokenizer.eos_id, *end_ids)))
    format = FORMATS[conversation] if isinstance(conversation, str) else conversation
    format.check(tokenizer, str(directory or "the model"))
    return format


def end_ids_of(conversation: str | Format, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids besides EOS that end an answer in the format. Does not check the format.

    A chat template has none: it ends answers with the tokens that the model's files name.
    """
    format = FORMATS.get(conversation) if isinstance(conversation, str) else conversation
    return () if format is None else format.end_ids(tokenizer)


def parse_conversation(name: str) -> str | Format:
    """The value of OwlConfig.conversation for a format's name or Python file.

    Raises UserError for an unknown name or an unsuitable file (see `load_format`).
    """
    if name.endswith(".py"):
        return load_format(name)
    if problem := name_problem(name):
        raise UserError(problem)
    return name


def load_format(path: str) -> Format:
    """The one Format that a Python file defines. Raises UserError unless it defines one."""
    objects = objects_in_file(path, Format, "conversation format file")
    # Leave out built-in formats that the file imports.
    found = [format for format in objects if format not in FORMATS.values()]
    if len(found) != 1:
        names = listed(format.name for format in found) or "none"
        raise UserError(
            f"conversation format file {path} defines {names}; expected exactly one "
            "owl_jax.text.formats.format.Format"
        )
    format = found[0]
    if problem := name_problem(format):
        raise UserError(f"{path}: {problem}")
    return format
