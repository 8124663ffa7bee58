"""The sandbox of chat templates: what they can write, and what would take all memory."""

import json

import pytest

from owl_jax.errors import UserError
from owl_jax.text.template_sandbox import render

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]


def written(source):
    return render(source, {"messages": MESSAGES}, "file")


def sixty_times(value, start="'abcdefgh'", end=""):
    return (
        f"{{% set ns = namespace(x={start}) %}}{{% for i in range(60) %}}{{% set x = ns.x %}}"
        f"{{% set ns.x = {value} %}}{{% endfor %}}{end}"
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "{% for m in messages %}{{ m.role ~ loop.index ~ none }}{% endfor %}",
            "user1Noneassistant2None",
        ),
        (
            "{% for m in 'ab' %}{{ loop.length }}{{ loop.last }}{{ loop.nextitem }}{% endfor %}",
            "2Falseb2True",
        ),
        ("{% for m in nothing %}x{% else %}none{% endfor %}", "none"),
        ("{% for x in [[1], 2] recursive %}{{ x if x is number else loop(x) }}{% endfor %}", "12"),
        ("{% for k, v in {'a': 1}.items() if v %}{{ k }}{% break %}{% endfor %}", "a"),
        (
            "{{ ['a', 1] | join(',') }} {{ messages | join('+', attribute='role') }}",
            "a,1 user+assistant",
        ),
        ("{{ '-'.join(['x', 'y']) }} {{ [1] + [2] }} {{ 'a' + 'b' }}", "x-y [1, 2] ab"),
        ("{{ 'aXa' | replace('a', 'b', 1) }} {{ 'aXa'.replace('a', 'b') }}", "bXa bXb"),
        ("{{ 'x\ny' | indent(2) }} {{ 'x\ny' | indent('>', true) }}", "x\n  y >x\n>y"),
        ("{{ '%s %d' % ('a', 3) }} {{ 7 % 4 }} {{ 6 * 7 }} {{ 'ab' * 2 }}", "a 3 3 42 abab"),
        (
            "{{ [1, 2] | string }} {{ nothing }} {{ none }} {{ {'format': 3}.format }}",
            "[1, 2]  None 3",
        ),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{% set y %}{{ m(1) }}{% endset %}{{ y }}", "<1>"),
    ],
)
def test_what_templates_write(source, text):
    assert written(source) == text


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ("", {"ensure_ascii": False}),
        ("true", {"ensure_ascii": True}),
        ("indent=2, sort_keys=true", {"ensure_ascii": False, "indent": 2, "sort_keys": True}),
        ("separators=(',', ':')", {"ensure_ascii": False, "separators": (",", ":")}),
        ("false, 4", {"ensure_ascii": False, "indent": 4}),
    ],
)
def test_json_has_the_arguments_of_transformers(arguments, values):
    value = {"b": ["é", 1.5, None], "a": {"x": True}}
    text = render(f"{{{{ value | tojson({arguments}) }}}}", {"value": value}, "file")
    assert text == json.dumps(value, **values)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ '%9999999999d' | format(1) }}", "the filter format"),
        ("{{ '{:>9999999999}'.format(1) }}", "access to attribute 'format'"),
        ("{{ '{x:>9999999999}'.format_map({'x': 1}) }}", "access to attribute 'format_map'"),
        ("{{ 'a'.ljust(9999999999) }}", "access to attribute 'ljust'"),
        ("{{ 'a'['rjust'](9999999999) }}", "access to attribute 'rjust'"),
        ("{{ ('a' | attr('zfill'))(9999999999) }}", "access to attribute 'zfill'"),
        ("{{ '\t'.expandtabs(9999999999) }}", "access to attribute 'expandtabs'"),
        ("{{ (1).to_bytes(9999999999) }}", "access to attribute 'to_bytes'"),
        ("{{ 'a' | center(9999999999) }}", "the filter center"),
        ("{{ ['a'] | map('center', 9999999999) | list }}", "the filter center"),
        ("{{ [1] | batch(9999999999, 0) | list }}", "the filter batch"),
        ("{{ 'a' | indent(9999999999, true) }}", "an indent is wider"),
        ("{{ [1] | tojson(indent=9999999999) }}", "an indent is wider"),
        (sixty_times("x ~ x"), "a text or list is longer"),
        (sixty_times("x + x"), "a text or list is longer"),
        (sixty_times("x + x", "[1]"), "a text or list is longer"),
        (sixty_times("[x, x] | join"), "a text or list is longer"),
        (sixty_times("''.join([x, x])"), "a text or list is longer"),
        (sixty_times("x | replace('a', x)"), "a text or list is longer"),
        (sixty_times("x.replace('a', x)"), "a text or list is longer"),
        (sixty_times("'%s%s' % (x, x)"), "a text or list is longer"),
        (sixty_times("x * x", "9"), "a number is too large"),
        (sixty_times("[x, x]", end="{{ ns.x }}"), "a text or list is longer"),
        (sixty_times("{1: x, 2: x}", end="{{ ns.x | tojson }}"), "a text or list is longer"),
        (sixty_times("[x, x]", end="{{ ns }}"), "a namespace is not a text"),
        (
            "{% set t %}{% for i in range(999) %}{{ 'a' * 99999 }}{% endfor %}{% endset %}",
            "a text or list is longer",
        ),
        ("{% for i in range(999) %}{{ 'a' * 99999 }}{% endfor %}", "a text or list is longer"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "its loops have more than 1000000 rounds",
        ),
    ],
)
def test_what_would_take_all_memory_is_forbidden(source, words):
    with pytest.raises(UserError) as error:
        written(source)
    assert f"file: the chat template does what the sandbox forbids: {words}" in str(error.value)


@pytest.mark.parametrize("tag", ["import 'a' as b", "include 'a'", "extends 'a'"])
def test_other_files_are_forbidden(tag):
    with pytest.raises(UserError, match="what the sandbox forbids: it reads another file, a; a te"):
        written(f"{{% {tag} %}}")


def test_a_template_that_writes_the_date_is_told_why_it_cannot():
    with pytest.raises(UserError, match=r"'strftime_now' is undefined, as the date would make"):
        written("{{ strftime_now('%d') }}")
    assert written("{{ strftime_now is defined }}") == "False"


def test_rounds_are_counted_for_each_rendering():
    source = "{% for i in range(99999) %}{% endfor %}" * 6
    assert written(source) == written(source) == ""
