"""Renders chat templates in Jinja's sandbox, where they can only write text.

What takes all memory in a few steps is forbidden: texts of more than _LONGEST characters, sums of
lists as long, and loops of more than _MOST_ROUNDS rounds in one rendering. Neither the time of a
rendering nor the number of long texts that it holds at once is bounded.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes
from jinja2.filters import make_attrgetter
from jinja2.sandbox import SecurityError
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from owl_jax.errors import UserError, one_line

# Enclose a generation block in rendered text: private characters that no text contains.
START, END = "\U000ffff2", "\U000ffff3"

_LONGEST = 10_000_000  # characters
_MOST_ROUNDS = 1_000_000
_LONGEST_REPEAT = 100_000  # as the sandbox's limit of range()
_MOST_BITS = 10_000  # of a product
_WIDEST_INDENT = 100
_WIDE = re.compile(r"%[^A-Za-z%]*(?:\d{4}|\*)")  # a field of thousands of characters

# They pad, or write a value as often as an argument says.
_METHODS = (
    *("center", "expandtabs", "format", "format_map", "ljust", "rjust", "to_bytes", "translate"),
    "zfill",
)
_FILTERS = ("batch", "center", "format", "pprint", "slice", "urlize", "wordwrap", "xmlattr")

_DATE = "strftime_now"  # transformers' function, which templates do not get here

_ROUNDS = "rounds of loops"  # a variable that no template can name


def render(source: str, variables: Mapping[str, Any], path: str) -> str:
    """The text that a template writes. path: its file, for error messages.

    Raises a one-line UserError for whatever the template raises.
    """
    try:
        return _compiled(source).render({**variables, _ROUNDS: itertools.count(1)})
    except jinja2.TemplateSyntaxError as error:
        wrong = f"has an error in line {error.lineno}: {one_line(error)}"
    except SecurityError as error:
        wrong = f"does what the sandbox forbids: {one_line(error)}; a template may only write text"
    except jinja2.UndefinedError as error:
        wrong = f"fails: UndefinedError: {one_line(error)}"
        if _DATE in str(error):
            wrong += ", as the date would make data depend on the day; write it as text"
    except _RaisedByTemplate as error:
        wrong = f"refuses the conversation: {one_line(error)}"
    except Exception as error:  # a template may raise anything
        wrong = f"fails: {type(error).__name__}: {one_line(error)}"
    raise UserError(f"{path}: the chat template {wrong}")


class _RaisedByTemplate(Exception):
    """Raised by a template's call of raise_exception."""


def _no_file(name: str) -> NoReturn:
    """For import, include and extends."""
    raise SecurityError(f"it reads another file, {name}")


def _raise(message: str) -> NoReturn:
    raise _RaisedByTemplate(message)


def _check(size: int) -> None:
    if size > _LONGEST:
        raise SecurityError(f"a text or list is longer than {_LONGEST}")


def _size(value: Any) -> int:
    """About the length of str(value); at most a little more than _LONGEST."""
    size, rest = 0, [value]
    while rest and size <= _LONGEST:
        item = rest.pop()
        size += len(item) if isinstance(item, str | bytes) else 8
        if isinstance(item, Namespace):
            raise SecurityError("a namespace is not a text")
        if isinstance(item, Collection) and not isinstance(item, str | bytes | range):
            size += len(item)
            _check(size)
            rest += item.items() if isinstance(item, Mapping) else item
    return size


def _printable(value: Any) -> Any:
    """The value, if str(value) is not too long."""
    if not isinstance(value, str):
        _check(_size(value))
    return value


def _text(value: Any) -> str:
    return str(_printable(value))


def _concatenated(parts: Iterable[str]) -> str:
    """The parts in one text; stops as soon as it would be too long."""
    size, kept = 0, []
    for part in parts:
        size += len(part)
        _check(size)
        kept.append(part)
    return "".join(kept)


def _tilde(values: Iterable[Any]) -> str:
    """What the operator ~ makes."""
    return _concatenated(map(_text, values))


def _joined(separator: str, values: Iterable[Any]) -> str:
    texts = list(values)
    separators = itertools.chain([""], itertools.repeat(separator))
    return _concatenated(itertools.chain.from_iterable(zip(separators, texts, strict=False)))


@jinja2.pass_eval_context
def _join(context: Any, value: Any, d: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(context.environment, attribute), value)
    return _joined(_text(d), map(_text, value))


def _replaced(text: str, old: str, new: str, count: int = -1) -> str:
    _check(len(text) + text.count(old) * len(new))
    return text.replace(old, new, count)


def _replace(s: Any, old: Any, new: Any, count: int | None = None) -> str:
    return _replaced(_text(s), _text(old), _text(new), -1 if count is None else count)


def _check_indent(indent: Any) -> None:
    if (len(indent) if isinstance(indent, str) else indent or 0) > _WIDEST_INDENT:
        raise SecurityError(f"an indent is wider than {_WIDEST_INDENT}")


def _indent(s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    _check_indent(width)
    text = _text(s)
    _check(len(text) + _WIDEST_INDENT * (1 + len(text.splitlines())))
    return jinja2.filters.do_indent(text, width, first, blank)


def _to_json(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The arguments are those of transformers."""
    _check_indent(indent)
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return _concatenated(encoder.iterencode(_printable(x)))


def _forbidden(name: str) -> Callable[..., NoReturn]:
    def forbidden(*args: Any, **kwargs: Any) -> NoReturn:
        raise SecurityError(f"the filter {name} is not allowed here")

    return forbidden


def _checked(value: Any) -> Any:
    """What a filter or a call returns, if it is not too long."""
    if isinstance(value, str | list | tuple):
        _check(len(value))
    return value


def _checking(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, with a check of what it returns; it keeps Jinja's marks."""

    @functools.wraps(function)
    def checking(*args: Any, **kwargs: Any) -> Any:
        return _checked(function(*args, **kwargs))

    return checking


@jinja2.pass_context
def _counted(context: jinja2.runtime.Context, values: Iterable[Any]) -> Iterator[Any]:
    """The values of a loop, whose rounds are counted."""
    rounds = context.parent[_ROUNDS]
    for value in values:
        if next(rounds) > _MOST_ROUNDS:
            raise SecurityError(f"its loops have more than {_MOST_ROUNDS} rounds")
        yield value


class _Bounds(NodeTransformer):
    """Puts filters that check sizes into a template, for what the environment cannot intercept."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _counted.__name__)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        values = nodes.List(node.nodes, lineno=node.lineno, environment=node.environment)
        return _filtered(values, _tilde.__name__)


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(
        node, name, [], [], None, None, lineno=node.lineno, environment=node.environment
    )


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox, which also forbids texts, lists and numbers that would take all memory."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(_concatenated)  # of what a template, a block or a macro writes

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        texts = isinstance(left, str | list | tuple), isinstance(right, str | list | tuple)
        if operator == "+":
            if all(texts):
                _check(len(left) + len(right))
        elif operator == "*" and any(texts):
            size, count = (left, right) if texts[0] else (right, left)
            if isinstance(count, int) and len(size) * count > _LONGEST_REPEAT:
                raise SecurityError("a text is repeated too often")
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() + right.bit_length() > _MOST_BITS:
                raise SecurityError("a number is too large")
        elif operator == "**" or (isinstance(left, str) and _WIDE.search(left)):
            raise SecurityError(f"the operator {operator} is not allowed here")
        elif operator == "%" and isinstance(left, str):
            _check(len(left) + left.count("%") * _size(right))
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if attr in _METHODS and isinstance(obj, str | bytes | int):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """No wrapper: str.format is not safe here."""

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        text, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(text, str) and name in ("join", "replace"):
            __obj = functools.partial(_joined if name == "join" else _replaced, str(text))
        return _checked(super().call(__context, __obj, *args, **kwargs))

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Bounds().visit(source), *args, **kwargs)


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
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
        finalize=_printable,
        loader=jinja2.FunctionLoader(_no_file),
    )
    filters = environment.filters
    filters.update({name: _forbidden(name) for name in _FILTERS})
    filters.update(join=_join, replace=_replace, indent=_indent, string=_text, tojson=_to_json)
    filters.update({name: _checking(filter) for name, filter in filters.items()})
    filters.update({bound.__name__: bound for bound in (_counted, _tilde)})
    environment.globals["raise_exception"] = _raise
    del environment.globals["lipsum"]
    return environment.from_string(source)
