"""Damaged tokenizer files give an error of one line, whatever the libraries raise."""

import json
import os
import random
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from owl_jax.errors import UserError
from owl_jax.text.tokenizer import load_tokenizer
from owl_jax.text.tokenizer_files import damage_as_user_error

MODEL = Path(__file__).parents[1] / "goldens" / "case08_text_pipeline" / "tokenizer.model"


@pytest.fixture(scope="module")
def file() -> dict:
    """A byte-level tokenizer.json with merges."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "abc", "<s>", "</s>"]
    vocabulary = {piece: id for id, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, [("a", "b"), ("ab", "c")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return json.loads(tokenizer.to_str())


def mutations(data: bytes, count: int) -> list[bytes]:
    """Bits flipped, bytes overwritten, moved, doubled and taken out, and files cut short."""
    draw = random.Random(0)
    found = []
    for _ in range(count):
        place, size = draw.randrange(len(data)), draw.choice([1, 2, 3, 64])
        head, part, tail = data[:place], data[place : place + size], data[place + size :]
        found += [
            head + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :],
            head + bytes(len(part)) + tail,
            head + b"\xff" * len(part) + tail,
            head + draw.randbytes(3) + tail,
            head + part * 2 + tail,
            head + tail,
            head,
        ]
    return found


def check(directory: Path) -> bool:
    """Loads and uses a tokenizer; True if it was refused, in one line."""
    try:
        tokenizer = load_tokenizer(directory)
    except UserError as error:
        assert str(error).startswith(str(directory)) and "\n" not in str(error)
        return True
    for text in ("", "An owl  <s>\n\n12", "a</s>b 🦉 ꙮ", "z" * 200):
        tokenizer.decode(tokenizer.encode(text))
    return False


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_damaged_bytes_are_one_line_or_another_tokenizer(tmp_path, capfd, file, name):
    data = MODEL.read_bytes() if name == "tokenizer.model" else json.dumps(file).encode()
    damaged = mutations(data, 60)
    refused = 0
    for content in damaged:
        (tmp_path / name).write_bytes(content)
        refused += check(tmp_path)
    assert refused > len(damaged) / 2
    assert len(capfd.readouterr().err) < 1000


# Each: where in the file, what is there instead.
@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("model", "vocab", "ab"), 2**31 - 1),  # the library would list all ids up to it
        (("model", "vocab", "ab"), 10**30),
        (("model", "vocab", "ab"), -1),
        (("model", "vocab", "ab"), 256.5),
        (("model", "vocab", "ab"), 7),
        (("model", "vocab"), None),
        (("model", "vocab"), []),
        (("model", "merges"), [["x"]]),
        (("model", "type"), "none"),
        (("model",), None),
        (("added_tokens", 0, "id"), 300),
        (("added_tokens", 0, "id"), "258"),
        (("added_tokens", 0, "content"), ""),
        (("added_tokens", 0, "content"), "\ud800"),
        (("added_tokens", 1, "id"), 258),
        (("added_tokens",), {}),
        (("pre_tokenizer",), 7),
    ],
)
def test_invalid_json_values(tmp_path, file, keys, value):
    file = json.loads(json.dumps(file))
    inner = file
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(file), encoding="utf-8")
    assert check(tmp_path)


@pytest.mark.parametrize("deep", ["[", '{"a":', '{"model": {"vocab": ['])
def test_json_that_is_nested_too_deeply(tmp_path, deep):
    (tmp_path / "tokenizer.json").write_text(deep * 10_000, encoding="utf-8")
    assert check(tmp_path)


def test_a_vocabulary_that_cannot_encode_every_text(tmp_path):
    tokenizer = tokenizers.Tokenizer(models.Unigram([("<s>", 0.0), ("</s>", 0.0), ("a", -1.0)]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="not a readable"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("prefix", "pairs"),
    [("x", False), ("x", True), ("##", True), ("猫", True), ("b", False), ("é", False)],
)
def test_a_prefix_that_merges_lack_is_one_line(prefix, pairs, file, tmp_path):
    """The library would cut merged pieces at a byte, and might end the process."""
    merges = [["a", "é"], ["é", "c"]] if pairs else ["a b", "é é"]
    model = {**file["model"], "continuing_subword_prefix": prefix, "merges": merges}
    (tmp_path / "tokenizer.json").write_text(json.dumps({**file, "model": model}))
    with pytest.raises(UserError, match=r"tokenizer\.json: continuing_subword_prefix is '.*merge"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_irregular_files_are_named(tmp_path, name):
    place = tmp_path / name
    place.mkdir()
    with pytest.raises(UserError, match=f"{name}: cannot be read .is a directory"):
        load_tokenizer(tmp_path)
    place.rmdir()
    place.symlink_to("nowhere")
    with pytest.raises(UserError, match=f"{name}: cannot be read .No such file"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "name", ["tokenizer.model", "tokenizer.json", "tokenizer_config.json", "added_tokens.json"]
)
def test_a_fifo_is_not_waited_for(tmp_path, name):
    if name in ("tokenizer_config.json", "added_tokens.json"):
        (tmp_path / "tokenizer.model").write_bytes(MODEL.read_bytes())
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: .*FIFO"):
        load_tokenizer(tmp_path)


def test_a_panic_is_one_line_too():
    # Like tokenizers' PanicException, which cannot be imported.
    class Panic(BaseException):
        pass

    with pytest.raises(UserError, match="here: not a readable tokenizers file"):  # noqa: SIM117
        with damage_as_user_error(Path("here"), "tokenizers file"):
            raise Panic("index out of bounds")


def test_an_interrupt_passes():
    with pytest.raises(KeyboardInterrupt), damage_as_user_error(Path("here"), "tokenizers file"):
        raise KeyboardInterrupt
