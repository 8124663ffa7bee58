from owl_jax.inference.text_stream import up_to, without_start


def test_what_follows_the_next_question_is_cut():
    def cut(*pieces):
        return list(up_to("\nHuman:", iter(pieces)))

    assert cut("Two", " owls.", "\nHu", "man", ": And", " now") == ["Two", " owls."]
    assert cut("a\nHuman: b") == ["a"]
    assert cut("\nHuman: b") == []
    # An end that is no beginning of the mark after all, or not all of it.
    assert cut("a\n", "b\nHum", "bug", "\nHuman") == ["a", "\nb", "\nHumbug", "\nHuman"]
    assert cut("\n", "\nHuman:") == ["\n"]


def test_the_first_of_several_marks_cuts():
    def cut(*pieces):
        return list(up_to(("\nUSER:", " USER:", "[INST]"), iter(pieces)))

    assert cut("Two", " owls.", " US", "ER: x") == ["Two", " owls."]
    assert cut("a [INST] b USER: c") == ["a "]
    assert cut("a USER: [INST]") == ["a"]
    assert cut("a\n USER: b", "c") == ["a\n"]
    assert cut("[IN", " USE", "R") == ["[IN", " USER"]
    assert list(up_to((), iter(["a", "", "b"]))) == ["a", "b"]


def test_the_start_of_an_answer_is_cut():
    def cut(*pieces, start=" >"):
        return list(without_start(start, iter(pieces)))

    assert cut(" ", ">a", " >b") == ["a", " >b"]
    assert cut(" >") == cut("") == []
    assert cut(" ", "a", "") == [" a"]
    assert cut(" ") == [" "]
    assert cut("a", "b") == cut("a", "", "b", start="") == ["a", "b"]
