"""Renders chat templates in Jinja's sandbox, where they can only write text of limited size."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox

from owl_jax.errors import UserError, one_line

# Enclose a generation block in rendered text: private characters that no text contains.
START, END = "\U000ffff2", "\U000ffff3"

_LONGEST_REPEAT = 100_000  # the same as the sandbox's limit for range()
_WIDE = re.compile(r"%[^A-Za-z%]*(?:\d{4}|\*)")  # a width of four digits or a variable


def render(source: str, variables: Mapping[str, Any], path: str) -> str:
    """The text that a template writes. path: its file, for error messages.

    Raises a one-line UserError for whatever the template raises.
    """
    try:
        return _compiled(source).render(variables)
    except jinja2.TemplateSyntaxError as error:
        wrong = f"has an error in line {error.lineno}: {one_line(error)}"
    except jinja2.sandbox.SecurityError as error:
        wrong = f"does what the sandbox forbids: {one_line(error)}; a template may only write text"
    except _RaisedByTemplate as error:
        wrong = f"refuses the conversation: {one_line(error)}"
    except Exception as error:  # a template may raise anything
        wrong = f"fails: {type(error).__name__}: {one_line(error)}"
    raise UserError(f"{path}: the chat template {wrong}")


class _RaisedByTemplate(Exception):
    """Raised by a template's call of raise_exception."""


def _raise(message: str) -> NoReturn:
    raise _RaisedByTemplate(message)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox; it also forbids texts and numbers that would exhaust memory."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        texts = isinstance(left, str | list | tuple), isinstance(right, str | list | tuple)
        if operator == "*" and any(texts):
            size, count = (left, right) if texts[0] else (right, left)
            if isinstance(count, int) and len(size) * count > _LONGEST_REPEAT:
                raise jinja2.sandbox.SecurityError("a text is repeated too often")
        elif operator == "**" or (isinstance(left, str) and _WIDE.search(left)):
            raise jinja2.sandbox.SecurityError(f"the operator {operator} is not allowed here")
        return super().call_binop(context, operator, left, right)


class _Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}: marks its contents."""

    tags = {"generation"}  # noqa: RUF012  as in Jinja's own extensions

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        """The syntax node of a block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_marked", [], [])
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        return f"{START}{caller()}{END}"


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> jinja2.Template:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment.from_string(source)
