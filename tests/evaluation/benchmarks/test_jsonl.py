import json

import pytest

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Judged, Medium
from owl_jax.evaluation.benchmarks.jsonl import Jsonl, read_choice

BENCHMARK = Jsonl()


def read(folder, *records):
    path = folder / "mine.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return BENCHMARK.read(path)


def question(**changes):
    return {"question": "What is it?", "answer": "An owl", **changes}


def test_what_a_line_may_have(tmp_path):
    plain, one, many, clip = read(
        tmp_path,
        question(),
        question(id="x", image="a.png", category="birds"),
        question(images=["a.png", "b/c.jpg"], answer=["owl", 2]),
        question(video={"path": "v.mp4", "start": 1, "end": 2.5}),
    )
    assert (plain.id, plain.media, plain.truth) == ("1", (), "An owl")
    assert (one.id, one.category, one.media) == (
        "x",
        "birds",
        (Medium("image", tmp_path / "a.png"),),
    )
    assert [medium.source for medium in many.media] == [
        tmp_path / "a.png",
        tmp_path / "b" / "c.jpg",
    ]
    assert many.fields["answers"] == ("owl", "2")
    assert clip.media == (Medium("video", tmp_path / "v.mp4", 1, 2.5),)
    assert BENCHMARK.question(one).parts == (*one.media, "What is it?")
    assert BENCHMARK.read(tmp_path)[0] == plain


def read_table(folder, text):
    path = folder / "mine.csv"
    path.write_text(text, encoding="utf-8-sig")
    return BENCHMARK.read(path)


def test_a_table_is_read_like_lines(tmp_path):
    table = read_table(
        tmp_path,
        'question,answer,image,video,category\n"What is it,\nthen?",An owl,a.png,,birds\n'
        "How many?,2,,v.mp4,\n",
    )
    lines = read(
        tmp_path,
        question(question="What is it,\nthen?", id="2", image="a.png", category="birds"),
        question(question="How many?", id="3", answer="2", video="v.mp4"),
    )
    assert table == lines
    (tmp_path / "mine.jsonl").unlink()
    assert BENCHMARK.read(tmp_path) == table


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("question,truth\n?,x\n", "found the columns question, truth; expected question, answer"),
        ("question,answer\n?,x\n?,\n", "line 3: found the cells question; expected question, a"),
        ("question,answer\n?,x,y\n", "line 2 has another number of columns than the header"),
        ("question,answer,anwser\n?,x,y\n", "line 2: unknown keys anwser; expected some of"),
        ("question,answer\n", "has no rows; expected columns question, answer"),
        ("question,answer,choices\n?,x,x y\n", "line 2: 1 choices; expected 2 to 26"),
    ],
)
def test_errors_name_table_and_line(text, words, tmp_path):
    with pytest.raises(UserError, match=f"mine.csv:? {words}"):
        read_table(tmp_path, text)


def test_choices_are_asked_for_by_letter(tmp_path):
    by_text, by_letter = read(
        tmp_path,
        question(choices=["A cat", "An owl"]),
        question(choices=["A cat", "An owl"], answer="A"),
    )
    assert (by_text.truth, by_letter.truth) == ("B", "A")
    assert BENCHMARK.question(by_text).parts == (
        "What is it?\nA. A cat\nB. An owl\nAnswer with the option's letter.",
    )


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B. An owl", "B"),
        ("B) I think", "B"),
        ("an owl", "B"),
        ("The answer is (B).", "B"),
        ("Option B fits", "B"),
        ("It is clearly an owl.", "B"),
        ("A bird", None),
        ("I see an owl", "B"),
        ("A cat or an owl", None),
        ("E", None),
        ("Because", None),
        ("", None),
    ],
)
def test_the_choice_that_is_read(answer, letter):
    assert read_choice(answer, ["A cat", "An owl", "Blue"]) == letter


def judge(items, answers, ask=None):
    verdicts = BENCHMARK.judge(items, answers, ask)
    return [
        Judged(item, answers[item.id], verdict)
        for item, verdict in zip(items, verdicts, strict=True)
    ]


def test_the_three_ways_to_score(tmp_path):
    items = read(
        tmp_path,
        question(category="exact"),
        question(category="exact", answer=["two", "a pair"]),
        question(category="choice", choices=["A cat", "An owl"]),
        question(category="judged", score="judged"),
        question(category="judged", score="judged", answer=["owl", "bird"]),
        question(category="judged", score="judged"),
    )
    answers = {"1": "the Owl!", "2": "2", "3": "A", "4": "some owl", "5": "x", "6": "y"}
    calls = []

    def ask(given):
        calls.extend(given)
        return ["Correct", "hm", None]

    judged = judge(items, answers, ask)
    assert [one.verdict.score for one in judged] == [1.0, 1.0, 0.0, 1.0, 0.0, None]
    assert [one.verdict.parsed for one in judged] == ["owl", "2", "A", "right", None, None]
    assert BENCHMARK.scores(judged[:5]) == {
        "accuracy": 0.6,
        "by_category": {"exact": 1.0, "choice": 0.0, "judged": 0.5},
    }
    assert calls[1].prompt.endswith("Correct answer: owl or bird\nModel's answer: x")
    scores = [one.verdict.score for one in judge(items, answers)]
    assert scores == [1.0, 1.0, 0.0, None, None, None]


def test_without_categories_there_is_no_table(tmp_path):
    judged = judge(read(tmp_path, question()), {"1": "a cat"})
    assert BENCHMARK.scores(judged) == {"accuracy": 0.0}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"question": "?"}, "found the keys question; expected question, answer"),
        (question(anwser="B"), "unknown keys anwser; expected some of answer, category"),
        (question(question=5), "the question is 5; expected a text"),
        (question(answer=None), "answer: found None; expected a text or a list"),
        (question(answer=[]), "no answer; expected a text"),
        (question(answer={"a": 1}), "answer: found"),
        (question(score="fuzzy"), "score is 'fuzzy'; expected exact or choice or judged"),
        (question(choices=["x"]), "1 choices; expected 2 to 26"),
        (question(choices=["x", "y"]), "'An owl' is none of the choices; .* letter from A to B"),
        (question(choices=["x", "y"], answer=["x", "y"]), "'x, y' is none of the choices"),
        (question(score="choice"), "0 choices; expected 2"),
        (question(image="a", images=["b"]), "both image and images"),
        (question(images=[{"a": 1}]), "image: found"),
        (question(video=5), "video: found 5; expected a file"),
        (question(video={"path": "v", "start": "1"}), "video: found '1'; expected seconds"),
        (question(video={"path": "v", "start": 3, "end": 2}), "ends at 2 s, before it starts at 3"),
    ],
)
def test_errors_name_file_and_line(record, words, tmp_path):
    with pytest.raises(UserError, match=words) as caught:
        read(tmp_path, question(), record)
    assert "mine.jsonl: line 2" in str(caught.value)


def test_which_file_is_meant(tmp_path):
    read(tmp_path, question())
    (tmp_path / "other.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"has mine.jsonl, other.jsonl; expected one of them"):
        BENCHMARK.read(tmp_path)


def test_a_line_that_is_not_json(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"question": "?", "answer": "x"}\n{"question"\n')
    with pytest.raises(UserError, match=r"mine.jsonl: line 2 is not JSON"):
        BENCHMARK.read(tmp_path)
