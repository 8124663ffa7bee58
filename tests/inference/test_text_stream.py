from owl_jax.inference.text_stream import up_to


def test_what_follows_the_next_question_is_cut():
    def cut(*pieces):
        return list(up_to("\nHuman:", iter(pieces)))

    assert cut("Two", " owls.", "\nHu", "man", ": And", " now") == ["Two", " owls."]
    assert cut("a\nHuman: b") == ["a"]
    assert cut("\nHuman: b") == []
    # An end that is no beginning of the mark after all, or not all of it.
    assert cut("a\n", "b\nHum", "bug", "\nHuman") == ["a", "\nb", "\nHumbug", "\nHuman"]
    assert cut("\n", "\nHuman:") == ["\n"]
