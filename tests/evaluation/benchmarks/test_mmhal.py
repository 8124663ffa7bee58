import json

import pytest
from recorded import SCORES

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmarks.mmhal import MmHal

BENCHMARK = MmHal()
DATA = SCORES / "mmhal"


@pytest.mark.parametrize(
    ("reply", "parsed", "score"),
    [
        ("It fits.\nRating: 5, very informative", "5", 5.0),
        ("rating: 4.5", "4", 4.0),
        ("Rating: 10", "1", 1.0),
        ("Rating: 3. I repeat: Rating: 3", "3", 3.0),
        ("Rating: 3 or rating: 4", None, 0.0),
        ("Rating:4", None, 0.0),
        ("Rating: **4**", None, 0.0),
        ("", None, 0.0),
        (None, None, None),
    ],
)
def test_ratings(reply, parsed, score):
    items = BENCHMARK.read(DATA)[:1]
    [verdict] = BENCHMARK.judge(items, {items[0].id: "An owl."}, lambda calls: [reply])
    assert (verdict.parsed, verdict.score) == (parsed, score)


def test_what_is_asked():
    item = BENCHMARK.read(DATA)[8]
    assert (item.id, item.category) == ("8", "attribute")
    assert BENCHMARK.question(item).parts == (*item.media, item.question)
    calls = []
    BENCHMARK.judge([item], {"8": "An {owl}."}, lambda given: calls.extend(given) or [None])
    [call] = calls
    for text in (item.question, item.truth, item.fields["content"], "An {owl}."):
        assert text in call.prompt
    for rating in range(7):
        assert f"Rating: {rating}, " in call.prompt
    assert BENCHMARK.judge([item], {"8": ""}, None)[0].score is None


def copy(folder, change=lambda records: records):
    records = json.loads((DATA / "response_template.json").read_text())
    (folder / "response_template.json").write_text(json.dumps(change(records)))
    return folder


def test_pictures_are_named_as_at_the_end_of_their_address(tmp_path):
    def change(records):
        records[0]["image_src"] = "https://a.b/6/55/9135_o.jpg?x=1"
        return records

    item = BENCHMARK.read(copy(tmp_path, change))[0]
    assert item.media[0].source == tmp_path / "images" / "9135_o.jpg"


def test_the_official_prompt_is_read_from_its_script(tmp_path):
    text = "Judge.\n{}\n{}\n{}\n### LMM Response to Evaluate\n{}\n"
    (tmp_path / "eval_gpt_mmhal.py").write_text(f"import openai\ntemplate = {text!r}\n")
    item = BENCHMARK.read(copy(tmp_path))[0]
    assert (item.fields["prompt"], item.fields["judge_prompt"]) == (text, "official")


def test_other_files(tmp_path):
    with pytest.raises(UserError, match=r"expected response_template.json in it"):
        BENCHMARK.read(tmp_path)
    with pytest.raises(UserError, match=r"has 95 entries; expected the 96"):
        BENCHMARK.read(copy(tmp_path, lambda records: records[1:]))
    with pytest.raises(UserError, match=r"entry 1: found the keys id; expected image_content"):
        BENCHMARK.read(copy(tmp_path, lambda records: [{"id": 1}]))
