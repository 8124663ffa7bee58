import numpy as np
import pytest
import small_tokenizers
import tiny

from owl_jax.inference.text_stream import AnswerText, UpTo, WithoutStart, answer_pieces
from owl_jax.text.tokenizer import StreamDecoder, load_tokenizer

WRITERS = (
    tiny.write_tokenizer,
    small_tokenizers.write_llama3,
    small_tokenizers.write_qwen,
    small_tokenizers.write_mistral,
    small_tokenizers.write_tekken,
)

REPLACE = {"encoding": "utf-8", "errors": "replace"}


def pushed(stream, pieces):
    """The nonempty texts that come out of a stream."""
    texts = [stream.push(piece) for piece in pieces]
    return [text for text in (*texts, stream.finish()) if text]


def test_what_follows_the_next_question_is_cut():
    def cut(*pieces):
        return pushed(UpTo(["\nHuman:"]), pieces)

    assert cut("Two", " owls.", "\nHu", "man", ": And", " now") == ["Two", " owls."]
    assert cut("a\nHuman: b") == ["a"]
    assert cut("\nHuman: b") == []
    # An end that is no beginning of the mark after all, or not all of it.
    assert cut("a\n", "b\nHum", "bug", "\nHuman") == ["a", "\nb", "\nHumbug", "\nHuman"]
    assert cut("\n", "\nHuman:") == ["\n"]


def test_the_first_of_several_marks_cuts():
    def cut(*pieces):
        return pushed(UpTo(("\nUSER:", " USER:", "[INST]")), pieces)

    assert cut("Two", " owls.", " US", "ER: x") == ["Two", " owls."]
    assert cut("a [INST] b USER: c") == ["a "]
    assert cut("a USER: [INST]") == ["a"]
    assert cut("a\n USER: b", "c") == ["a\n"]
    assert cut("[IN", " USE", "R") == ["[IN", " USER"]
    assert pushed(UpTo(()), ["a", "", "b"]) == ["a", "b"]


def test_the_start_of_an_answer_is_cut():
    def cut(*pieces, start=" >"):
        return pushed(WithoutStart(start), pieces)

    assert cut(" ", ">a", " >b") == ["a", " >b"]
    assert cut(" >") == cut("") == []
    assert cut(" ", "a", "") == [" a"]
    assert cut(" ") == [" "]
    assert cut("a", "b") == cut("a", "", "b", start="") == ["a", "b"]


def test_an_answer_by_tokens(tmp_path):
    tokenizer = load_tokenizer(tiny.write_tokenizer(tmp_path))
    ids = tokenizer.encode("What do you see? \u732b\nHuman: And")

    def pieces(tokens, **arguments):
        return list(answer_pieces(iter(tokens), AnswerText(tokenizer, **arguments)))

    whole = pieces(ids)
    assert "".join(whole) == tokenizer.decode(ids) == "What do you see? \u732b\nHuman: And"
    assert "" not in whole and "\ufffd" not in "".join(whole)
    cut = pieces(ids, stops=("\nHuman:",), start="What ")
    assert "".join(cut) == "do you see? \u732b"
    # A character that never ends, and a stop text that never ends.
    assert set("".join(pieces(tokenizer.encode("\u732b")[:-1]))) == {"\ufffd"}
    assert "".join(pieces(tokenizer.encode("a\nHum"), stops=("\nHuman:",))) == "a\nHum"


def test_no_token_is_taken_after_a_stop_text(tmp_path):
    tokenizer = load_tokenizer(tiny.write_tokenizer(tmp_path))
    tokens = iter(tokenizer.encode("see? AI: What"))
    assert "".join(answer_pieces(tokens, AnswerText(tokenizer, ["?"]))) == "see"
    assert tokenizer.decode(tokens).strip() == "AI: What"


def test_a_stop_text_may_have_to_wait(tmp_path):
    """Of a request for a least number of tokens."""
    tokenizer = load_tokenizer(tiny.write_tokenizer(tmp_path))
    text = AnswerText(tokenizer, ["?"])
    first = [text.push(id, may_stop=False) for id in tokenizer.encode("What?")]
    assert "".join(first) == "What?" and not text.is_stopped
    rest = [text.push(id) for id in tokenizer.encode("do? you")]
    assert "".join(rest).strip() == "do" and text.is_stopped
    assert text.push(5) == text.finish() == ""


def test_bytes_of_tokens_make_the_text(tmp_path):
    for name, write in {
        "sentencepiece": tiny.write_tokenizer,
        "byte level": small_tokenizers.write_qwen,
        "byte fallback": small_tokenizers.write_mistral,
    }.items():
        (tmp_path / name).mkdir()
        tokenizer = load_tokenizer(write(tmp_path / name))
        text = "What do you see? \u732b\n"
        data = b"".join(map(tokenizer.token_bytes, tokenizer.encode(text)))
        assert data.decode().removeprefix(" ") == text, name
        assert all(tokenizer.token_bytes(id) == b"" for id in tokenizer.special_tokens)
        assert tokenizer.token_bytes(tokenizer.vocab_size) == tokenizer.token_bytes(-1) == b""


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_long_streams_join_to_the_decoded_text(tmp_path, write):
    """A stream forgets old tokens, whatever they are: words, bytes of characters, added tokens."""
    tokenizer = load_tokenizer(write(tmp_path))
    words = tokenizer.encode("What do you see? \u732b\U0001f989 owl.\n\n  It's 12. ")
    random, every = np.random.default_rng(0), range(tokenizer.vocab_size)
    if write is small_tokenizers.write_mistral:
        # The library decodes the neighbours of a broken byte anew.
        every = [id for id in every if "\ufffd" not in tokenizer.token_bytes(id).decode(**REPLACE)]
    for seed in range(20):
        if seed % 2:
            ids = random.choice(every, 400).tolist()
        else:
            ids = [id for _ in range(30) for id in words[random.integers(len(words)) :]]
        stream = StreamDecoder(tokenizer)
        pushed = [stream.push(id) for id in ids]
        assert "".join(pushed) + stream.finish() == tokenizer.decode(ids)
        if not seed % 2:
            assert len(stream._ids) < 100 < len(ids)
