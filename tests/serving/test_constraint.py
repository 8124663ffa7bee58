"""response_format: answers that are JSON."""

import json

import numpy as np
import pytest
import small_tokenizers
import tiny

from owl_jax.errors import UserError
from owl_jax.serving.constraint import Grammars
from owl_jax.text.tokenizer import load_tokenizer

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "owls": {"type": "integer"}},
    "required": ["name", "owls"],
    "additionalProperties": False,
}

TOKENIZERS = {
    "sentencepiece": tiny.write_tokenizer,
    "byte level": small_tokenizers.write_qwen,
    "byte fallback": small_tokenizers.write_mistral,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request, tmp_path_factory):
    return load_tokenizer(TOKENIZERS[request.param](tmp_path_factory.mktemp("tokenizer")))


def drawn(constraint, size, end_ids, seed, most=400):
    """Tokens drawn at random from the allowed ones, up to an end id."""
    random, ids = np.random.default_rng(seed), []
    while len(ids) < most:
        words = constraint.allowed()
        assert words.dtype == np.uint32 and words.shape == ((size + 31) // 32,)
        allowed = np.nonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))[0]
        assert len(allowed) and allowed[-1] < size
        ends = [id for id in allowed.tolist() if id in end_ids]
        ids.append(ends[0] if ends else int(random.choice(allowed)))
        constraint.accept(ids[-1])
        if ends:
            return ids
    return ids


def test_answers_follow_a_schema(tokenizer):
    size = tokenizer.vocab_size + 7  # a model may have more than its tokenizer
    grammars = Grammars(tokenizer, size, (tokenizer.eos_id, size - 1))
    found = 0
    for seed in range(8):
        constraint = grammars.of_schema(SCHEMA)
        ids = drawn(constraint, size, (tokenizer.eos_id,), seed)
        if ids[-1] == tokenizer.eos_id:
            answer = json.loads(tokenizer.decode(ids))
            assert set(answer) == {"name", "owls"} and isinstance(answer["owls"], int)
            found += 1
    assert found >= 4  # a number may go on for ever


def test_copies_are_apart(tokenizer):
    size = tokenizer.vocab_size
    first = Grammars(tokenizer, size, (tokenizer.eos_id,)).of_schema()
    second = first.copy()
    before = second.allowed()
    drawn(first, size, (tokenizer.eos_id,), 0, most=3)
    np.testing.assert_array_equal(second.allowed(), before)


@pytest.mark.parametrize(
    "schema",
    [{"type": "owl"}, {"type": "string", "pattern": "("}, {"not": {}}, {"$ref": "#/nowhere"}],
)
def test_schemas_that_cannot_be_used(tokenizer, schema):
    grammars = Grammars(tokenizer, tokenizer.vocab_size, (tokenizer.eos_id,))
    with pytest.raises(UserError, match="the schema cannot be used"):
        grammars.of_schema(schema)


def test_a_request_brings_its_constraint(serve):
    served = serve('{"name": "a", "owls": 2}')
    named = {"type": "json_schema", "json_schema": {"name": "owls", "schema": SCHEMA}}
    for format in ({"type": "json_object"}, named):
        assert served.ask(response_format=format, n=2).status_code == 200
        first, second = served.engine.requests[-2:]
        assert first.constraint is not None and first.constraint is not second.constraint
        start = served.owl.tokenizer.encode("{")[-1]
        words = first.constraint.allowed()
        assert words[start // 32] >> (start % 32) & 1
    assert served.ask("/v1/completions", prompt="a", response_format=named).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "owl"}}}},
        {"response_format": {"type": "json_object"}, "ignore_eos": True},
        {"response_format": {"type": "json_object"}, "min_tokens": 5},
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
    ],
)
def test_refused_formats(plain, fields):
    response = plain.ask(**fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("response_format")
