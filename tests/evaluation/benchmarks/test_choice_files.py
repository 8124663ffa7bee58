"""The official files of the benchmarks of choices and of yes or no, and what they ask."""

import base64
import json
import shutil

import pytest
from college_files import png, write_recorded, write_rows
from recorded import SCORES, judged_of

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Medium
from owl_jax.evaluation.benchmarks import BENCHMARKS
from owl_jax.evaluation.benchmarks.hallusionbench import HallusionBench
from owl_jax.evaluation.benchmarks.mmbench import MmBench
from owl_jax.evaluation.benchmarks.mme import Mme
from owl_jax.evaluation.benchmarks.mmmu import Mmmu
from owl_jax.evaluation.benchmarks.mmmu_pro import MmmuPro
from owl_jax.evaluation.benchmarks.mmstar import MmStar
from owl_jax.evaluation.benchmarks.scienceqa import ScienceQa
from owl_jax.evaluation.benchmarks.seedbench import SeedBench
from owl_jax.evaluation.benchmarks.wemath import WeMath
from owl_jax.evaluation.given_answers import read_answers

JPEG = b"\xff\xd8\xff"


def copied(name, tmp_path):
    return shutil.copytree(SCORES / name, tmp_path / name)


def changed(path, change):
    """Applies `change` to the JSON value of a file."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def text_of(name, item):
    return "".join(part for part in BENCHMARKS[name].question(item).parts if isinstance(part, str))


def test_mme_s_pictures_are_beside_the_questions_or_in_a_folder(tmp_path):
    data = copied("mme", tmp_path)
    (data / "existence" / "0001.png").write_bytes(png())
    (data / "posters" / "images").mkdir()
    (data / "posters" / "images" / "0002.jpg").write_bytes(png())
    media = {item.id: item.media for item in Mme().read(data)}
    assert media["existence/0001/1"] == (Medium("image", data / "existence" / "0001.png"),)
    assert media["posters/0002/0"] == (Medium("image", data / "posters" / "images" / "0002.jpg"),)


def test_a_turn_of_mmbench_shows_the_picture_of_its_first_turn():
    items = {item.id: item for item in MmBench().read(SCORES / "mmbench")}
    first, turn = items["55260"], items["1055260"]
    assert first.media[0].source.startswith(JPEG)
    assert turn.media == first.media
    assert (turn.group, turn.choices) == ("55260", (*first.choices[1:], first.choices[0]))
    assert items["7363"].choices == items["1007363"].choices[::-1]  # of two options


def test_mmbench_asks_with_the_hint(tmp_path):
    row = {"index": 7, "question": "Which?", "hint": "Look.", "A": "x", "B": "y", "C": "nan"}
    row |= {"answer": "B", "category": "c", "image": base64.b64encode(png()).decode()}
    path = tmp_path / "MMBench_DEV_EN.tsv"
    path.write_text("\t".join(row) + "\n" + "\t".join(map(str, row.values())) + "\n")
    [item] = MmBench().read(tmp_path)
    assert text_of("mmbench", item) == (
        "Hint: Look.\nQuestion: Which?\nOptions:\nA. x\nB. y\n"
        "Please select the correct answer from the options above. \n"
    )


def test_mmstar_is_the_same_from_both_files(tmp_path):
    items = MmStar().read(SCORES / "mmstar")
    rows = [
        {
            "index": int(item.id),
            "question": item.fields["text"],
            "image": item.media[0].source,
            "answer": item.truth,
            "category": item.category,
            "l2_category": item.fields["l2_category"],
        }
        for item in items
    ]
    write_rows(tmp_path / "mmstar.parquet", rows)
    assert MmStar().read(tmp_path) == items
    assert items[0].question == "What colour is the ball on the table?"


def test_mmstar_s_options_in_brackets(tmp_path):
    row = {"index": 3, "question": "Hint: say it.\nQuestion: How many?\nChoices:\n(A) 3, 4\n(B) 5"}
    row |= {"image": {"bytes": png()}, "answer": "A", "category": "math", "l2_category": "geometry"}
    write_rows(tmp_path / "mmstar.parquet", [row])
    [item] = MmStar().read(tmp_path)
    assert item.choices == ("3, 4", "5")
    assert text_of("mmstar", item) == row["question"]


def test_scienceqa_s_pictures_in_either_folder(tmp_path):
    data = copied("scienceqa", tmp_path)
    [media] = {item.id: item.media for item in ScienceQa().read(data)}["13"]
    assert media.source == data / "test" / "13" / "image.png"
    (data / "images" / "test").mkdir(parents=True)
    [media] = {item.id: item.media for item in ScienceQa().read(data)}["13"]
    assert media.source == data / "images" / "test" / "13" / "image.png"


def test_seed_bench_ranks_options_that_the_question_does_not_show():
    items = SeedBench().read(SCORES / "seedbench")
    assert SeedBench().modes[0] == "rank"
    assert text_of("seedbench", items[0]) == f"Question: {items[0].question}\nAnswer:"


def test_seed_bench_s_parts_of_videos_are_in_seconds(tmp_path):
    data = copied("seedbench", tmp_path)

    def change(value):
        for question in value["questions"]:
            if question["question_type_id"] in (11, 12):
                question["segment"] = [30, 90]

    changed(data / "SEED-Bench.json", change)
    media = {item.fields["type"]: item.media[0] for item in SeedBench().read(data)}
    assert (media[10].kind, media[10].start, media[10].end) == ("video", None, None)
    assert (media[11].start, media[11].end) == (30, 90)
    assert (media[12].start, media[12].end) == (2, 6)  # frames, 15 a second
    assert media[1].source.parent == data / "SEED-Bench-image"


def test_mmmu_s_pictures_are_at_their_marks(tmp_path):
    pictures = {
        f"image_{number}": {"bytes": png(color), "path": None}
        for number, color in enumerate(("red", "green", "blue"), 1)
    }
    row = {
        "id": "validation_Art_Theory_1",
        "question": "Before <image 2> after",
        "options": "['<image 1>', 'none']",
        "answer": "A",
        "question_type": "multiple-choice",
        **pictures,
        "image_4": None,
    }
    write_rows(tmp_path / "Art_Theory" / "validation-00000-of-00001.parquet", [row])
    [item] = Mmmu().read(tmp_path)
    parts = Mmmu().question(item).parts
    # The third has no mark.
    red, green, blue = (Medium("image", png(color)) for color in ("red", "green", "blue"))
    assert parts == (
        *(blue, "\nBefore ", green, " after\n\n(A) ", red),
        "\n(B) none\n\nAnswer with the option's letter from the given choices directly.",
    )
    assert item.category == "Art_Theory"


def test_mmmu_s_open_questions(tmp_path):
    row = {"id": "validation_Math_1", "question": "<image 1> Area?", "options": "[]"}
    row |= {"answer": "['6.0', 'six']", "question_type": "open", "image_1": {"bytes": png()}}
    write_rows(tmp_path / "Math" / "validation-00000-of-00001.parquet", [row])
    [item] = Mmmu().read(tmp_path)
    assert (item.choices, item.truth) == ((), "6.0")
    [number], [word], [other], [empty] = (
        Mmmu().judge([item], {item.id: answer}, None)
        for answer in ("So the area is 6", "It is six.", "seven", "")
    )
    assert [verdict.score for verdict in (number, word, other, empty)] == [1, 1, 0, 0]
    assert empty.parsed is None


def test_mmmu_pro_s_vision_questions_are_pictures_only(tmp_path):
    items = MmmuPro().read(write_recorded("mmmu_pro", tmp_path))
    vision = next(item for item in items if item.category == "vision")
    assert vision.question == ""
    picture, text = MmmuPro().question(vision).parts
    assert isinstance(picture, Medium)
    assert not any(choice in text for choice in vision.choices)
    assert len(vision.choices) == 10


def test_hallusionbench_asks_some_questions_without_a_picture():
    items = {item.id: item for item in HallusionBench().read(SCORES / "hallusionbench")}
    for item in items.values():
        assert bool(item.media) == (item.fields["visual_input"] != "0")
    [media] = items["VD_illusion_0_0_0"].media
    expected = SCORES / "hallusionbench" / "hallusion_bench" / "VD" / "illusion" / "0_0.png"
    assert media.source == expected


def test_we_math_shows_options_as_they_are_written():
    items = WeMath().read(SCORES / "wemath")
    assert items[0].choices[-1] == "No correct answer"
    assert f"\nOption: {items[0].fields['option']}\n" in text_of("wemath", items[0])


def test_official_prompts_for_judges_are_read_from_the_official_scripts(tmp_path):
    asked = []

    def ask(calls):
        asked.extend(calls)
        return [None] * len(calls)

    data = copied("hallusionbench", tmp_path)
    (data / "utils.py").write_text(
        "raise SystemExit\n"
        "def check():\n"
        "    prompt = 'Assess the correctness! '\n"
        "    prompt += 'Does it conflict with the reference answer? Question:'\n"
        "    prompt += 'Assess the consistency! '\n"
        "    prompt += 'You do not know the specific questions. '\n"
        "    prompt += 'If response1 does not conflict: same. response1:'\n"
    )
    judged = judged_of(HallusionBench(), ask=ask, data=data)
    assert HallusionBench().variants(judged)["judge_prompt"] == ["official"]
    prompts = {call.part: call.prompt for call in asked if call.id == "VD_illusion_0_0_1"}
    assert prompts["correctness"].startswith(
        "Assess the correctness! Does it conflict with the reference answer? Question:Is there a "
        "pink ring in the picture?\nReference answer: There is a pink ring in the picture.\n"
        "Prediction answer:No\n"
    )
    assert (
        "specific questions. If response1 does not conflict: same. response1:No\nresponse2: "
        in (prompts["same"])
    )

    asked.clear()
    data = copied("mmbench", tmp_path)
    marker = "in A, B, C, D (if they are valid options), and Z"
    (data / "multiple_choice.py").write_text(f"t = 'One letter {marker}. Q {{}} O {{}} A {{}}'\n")
    judged = judged_of(MmBench(), ask=ask, data=data)
    assert MmBench().variants(judged)["judge_prompt"] == ["official"]
    assert MmBench().variants(judged_of(MmBench()))["judge_prompt"] == ["own"]
    prompt = next(call.prompt for call in asked if call.id == "11882")
    assert prompt.startswith(f"One letter {marker}. Q ")
    assert prompt.endswith(" A c")


FOREIGN = {
    "hallusionbench": ("pope/coco_pope_random.json", "is not JSON"),
    "mme_realworld": ("wemath/testmini.json", "expected Question_id, Image"),
    "mmstar": ("mmbench/mmbench_dev.tsv", "expected index, question, image, answer, category, l2_"),
    "scienceqa": ("wemath/testmini.json", "expected an object"),
    "seedbench": ("hallusionbench/HallusionBench.json", "expected an object"),
    "wemath": ("mme_realworld/MME_RealWorld.json", "expected ID, key, question, option"),
}


@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [(name, file, text) for name, (file, text) in FOREIGN.items()],
)
def test_the_file_of_another_benchmark(name, file, expected):
    with pytest.raises(UserError) as error:
        BENCHMARKS[name].read(SCORES / file)
    assert expected in str(error.value)
    assert str(SCORES / file) in str(error.value)


@pytest.mark.parametrize("name", sorted({*FOREIGN, "mmbench", "mme", "mmmu", "mmmu_pro", "pope"}))
def test_a_folder_without_the_files(name, tmp_path):
    with pytest.raises(UserError, match="expected"):
        BENCHMARKS[name].read(tmp_path)


def set_in(*path, value):
    def change(whole):
        for key in path[:-1]:
            whole = whole[key]
        whole[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("name", "file", "change", "expected"),
    [
        (
            *("hallusionbench", "HallusionBench.json", set_in(0, "gt_answer", value="yes")),
            "gt_answer 'yes'; expected VD or VS, and 0 or 1",
        ),
        (
            *("hallusionbench", "HallusionBench.json", set_in(0, "figure_id", value="9")),
            "has no question about figure 0",
        ),
        (
            *("mme_realworld", "MME_RealWorld.json", set_in(1, "Ground truth", value="F")),
            "entry 2 has the ground truth 'F'; expected one of A to E",
        ),
        (
            *("mme_realworld", "MME_RealWorld.json", set_in(1, "Subtask", value="Cooking")),
            "the task 'Perception' and subtask 'Cooking'; expected",
        ),
        (
            *("mme_realworld", "MME_RealWorld.json", set_in(0, "Answer choices", value="A or B")),
            "entry 1: Answer choices is 'A or B'; expected a list of texts",
        ),
        (
            *("scienceqa", "problems.json", set_in("2", "answer", value=2)),
            "problem 2 has the answer 2 and 2 choices; expected the number of one of at most 5",
        ),
        (
            *("scienceqa", "pid_splits.json", set_in("test", value=["2", "999"])),
            "found the problems 1, 2, 3",
        ),
        (
            *("seedbench", "SEED-Bench.json", set_in("questions", 0, "data_type", value="audio")),
            "data_type 'audio'; expected a number of question_type, and image or video",
        ),
        (
            *("seedbench", "SEED-Bench.json", set_in("questions", 0, "choice_a", value=8)),
            "question 1: choice_a is 8; expected a text",
        ),
        (
            *("seedbench", "SEED-Bench.json", set_in("questions", 0, "question_type_id", value=[])),
            "question 1: question_type_id is []; expected a number or a text",
        ),
        (
            *("coco_caption", "captions_val2014.json", set_in("annotations", value=1.5)),
            "captions_val2014.json: annotations is 1.5; expected a list",
        ),
        (
            *("coco_caption", "captions_val2014.json", set_in("images", 1, "file_name", value=3)),
            "image 2: file_name is 3; expected a text",
        ),
        (
            *("mlvu", "json/2_needle.json", set_in(0, "video", value=[])),
            "entry 1: video is []; expected a text",
        ),
        (
            *("mmhal", "response_template.json", set_in(1, "image_content", value=True)),
            "entry 2: image_content is True; expected a list of texts",
        ),
        (
            *("mvbench", "json/action_localization.json", set_in(1, "video", value=5)),
            "entry 2: video is 5; expected a text",
        ),
        (
            *("tempcompass", "questions/yes_no.json"),
            set_in("4795975686", "speed", value=None),
            "questions of 4795975686: speed is None; expected a list",
        ),
        (
            *("vqav2", "v2_OpenEnded_mscoco_val2014_questions.json"),
            set_in("questions", 0, "image_id", value="x"),
            "image_id is 'x'; expected a number, or the key image with the file of the picture",
        ),
        (
            *("wemath", "testmini.json", set_in(0, "key", value="4steps_1")),
            "entry 1 has the key '4steps_1'; expected one of 2steps_1, 2steps_2, 2steps_multi",
        ),
        (
            *("wemath", "testmini.json", lambda whole: whole.pop(0)),
            "problem 2steps/2steps_1 lacks 2steps_1",
        ),
    ],
)
def test_a_wrong_value_in_a_file(name, file, change, expected, tmp_path):
    data = copied(name, tmp_path)
    changed(data / file, change)
    with pytest.raises(UserError) as error:
        BENCHMARKS[name].read(data)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        (
            "mmbench",
            "\tD\timage_scene",
            "\tE\timage_scene",
            "has the answer 'E'; expected an option",
        ),
        (
            "mmbench",
            "\tD\timage_scene\t/9j/",
            "\tD\timage_scene\t!9j/",
            "the picture is not base64",
        ),
        ("mmbench", "\t55260\t", "\t55261\t", "the image '55261'; expected base64 or the index of"),
        ("mmbench", "\n1055260\t", "\nx\t", "index x: expected a whole number"),
        ("mmstar", "\tcoarse perception", "", "has another number of columns"),
    ],
)
def test_a_wrong_value_in_a_table(name, old, new, expected, tmp_path):
    data = copied(name, tmp_path)
    [path] = data.glob("*.tsv")
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError) as error:
        BENCHMARKS[name].read(data)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"question": "<image 2> What?"}, "has no image_2; its question shows it"),
        ({"options": "yes or no"}, "found 'yes or no'; expected a list such as ['a', 'b']"),
        ({"answer": "E"}, "has the answer 'E'; expected the letter of an option"),
        ({"image_1": "here"}, "the picture is 'here'; expected its bytes"),
        ({"question_type": None}, "question_type is None; expected a text"),
    ],
)
def test_a_wrong_value_in_a_row(change, expected, tmp_path):
    row = {"id": "validation_Art_1", "question": "<image 1> What?", "options": "['a', 'b']"}
    row |= {"answer": "A", "question_type": "multiple-choice", "image_1": {"bytes": png()}}
    write_rows(tmp_path / "Art" / "validation-00000-of-00001.parquet", [row | change])
    with pytest.raises(UserError) as error:
        Mmmu().read(tmp_path)
    assert "validation_Art_1" in str(error.value)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Is it red?\tYes\n", "has 1 lines; expected two questions"),
        ("Is it red?\tYes\nIs it blue? No\n", "line 2 is 'Is it blue? No'; expected a question, a"),
    ],
)
def test_a_wrong_file_of_mme(text, expected, tmp_path):
    data = copied("mme", tmp_path)
    (data / "count" / "0002.txt").write_text(text)
    with pytest.raises(UserError) as error:
        Mme().read(data)
    assert expected in str(error.value)
    shutil.rmtree(data / "count")
    with pytest.raises(UserError, match="has no folder count; expected the folders of MME's 14"):
        Mme().read(data)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"losses": [1, 2, 3]}, "the losses are [1, 2, 3]; expected 4 numbers"),
        ({"losses": [1, 2, 3, "4"]}, "expected 4 numbers, one for each choice"),
        ({"losses": [1, 2, 3, float("nan")]}, "expected 4 numbers, one for each choice"),
        ({"text": "B"}, "line 1: found the keys id, text; expected id, answer"),
    ],
)
def test_wrong_losses(record, expected, tmp_path):
    items = SeedBench().read(SCORES / "seedbench")
    path = tmp_path / "losses.jsonl"
    path.write_text(json.dumps({"id": items[0].id, **record}) + "\n")
    with pytest.raises(UserError) as error:
        read_answers(path, items)
    assert expected in str(error.value)
