"""The embedded data set: every answer is checked against what the pictures and words show.

The solver (scene_solver.py) reads objects back from the pixels, or from the caption in the words.
"""

import hashlib
import os
import pickle
import random
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from scene_solver import (
    SOLVERS,
    blobs,
    ends_in_words,
    facts_of,
    only,
    parts_of,
    scene_in_listing,
    scene_in_pixels,
    scene_in_words,
    scenes_of,
    solve_scene,
    way,
)
from scipy import ndimage, stats

from owl_jax.data.sources.detect import open_source
from owl_jax.demo.dialogues import KINDS
from owl_jax.demo.drawing import render, render_clip
from owl_jax.demo.questions import QUESTION_KINDS, normalize_answer, questions
from owl_jax.demo.scenes import (
    COLORS,
    COUNTS,
    SHAPES,
    Clip,
    Thing,
    held_out,
    sample_clip,
    sample_scene,
)
from owl_jax.demo.synthetic import SyntheticSource, iter_texts
from owl_jax.errors import UserError

PROMPTS = {
    "image": ("Describe the image.", "What does the image show?"),
    "listing": ("List the objects in the image.", "What is in the image?"),
    "video": ("Describe the video.", "What does the video show?"),
}
EVERY_KIND = dict.fromkeys(KINDS, 1.0)
IMAGE_KINDS = ("vqa", "two_images", "video")
# The hash of some records of every kind; training on other records gives another model.
RECORDED = "37df241f070eebd0276ba74e449827b18a07e5999c212ebb6251fdd4c80b3dcb"


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("kind", [*IMAGE_KINDS, "text_scene", "text_two_images", "text_video"])
def test_every_answer_and_every_split_is_right(kind, split):
    solver = SOLVERS[kind.removeprefix("text_").replace("vqa", "scene")]
    source = SyntheticSource({kind: 1.0}, split=split, size=120, seed=3, turns=5)
    asked = Counter()
    for record in source:
        context, turns = parts_of(record["text"])
        facts = facts_of(kind, context, record["images"], record["videos"])
        for question, answer in turns:
            assert solver(question, facts) == answer, (question, facts)
        assert all(held_out(scene) == (split == "heldout") for scene in scenes_of(kind, facts))
        assert context.count("<image>") == len(record["images"])
        assert context.count("<|video|>") == len(record["videos"])
        assert len({question for question, _ in turns}) == len(turns) <= 5
        asked[len(turns)] += 1
    assert asked[5] > (0 if kind.endswith("video") else 100)


def as_weighted(crowds):
    """Whether numbers of objects are as frequent as their weights."""
    expected = np.array(list(COUNTS.values())) * crowds.total() / sum(COUNTS.values())
    return stats.chisquare([crowds[count] for count in COUNTS], expected).pvalue > 0.001


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_captions_are_complete_and_go_by_place(split):
    prompts, crowds = Counter(), Counter()
    for record in SyntheticSource({"caption": 1.0}, split=split, size=240, seed=1):
        _, turns = parts_of(record["text"])
        prompt, answer = only(turns)
        seen = scene_in_pixels(only(record["images"]))
        assert scene_in_words(answer) == tuple(sorted(seen))
        assert held_out(seen) == (split == "heldout")
        prompts[prompt] += 1
        crowds[len(seen)] += 1
    assert set(prompts) == {"Describe the image.", "What does the image show?"}
    assert min(prompts.values()) > 80
    assert as_weighted(crowds)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_descriptions_are_complete_and_in_their_order(split):
    """Captions go by place; listings by colour, then shape, then place. A fifth tells of clips."""
    colors, shapes = list(COLORS), list(SHAPES)
    prompts, crowds = Counter(), Counter()
    source = SyntheticSource({"text_description": 1.0}, split=split, size=400, seed=1)
    for text in iter_texts(source):
        context, turns = parts_of(text)
        kind, words = re.fullmatch("The (image|video) shows (.*)", only(context)).groups()
        prompts.update(prompt for prompt, _ in turns)
        if kind == "video":
            assert only(turns) in ((prompt, words) for prompt in PROMPTS["video"])
            assert all(held_out(scene) == (split == "heldout") for scene in ends_in_words(words))
            continue
        seen = scene_in_words(words)
        crowds[len(seen)] += 1
        assert held_out(seen) == (split == "heldout")
        assert sorted(prompt in PROMPTS["listing"] for prompt, _ in turns) == [False, True]
        for prompt, answer in turns:
            if prompt in PROMPTS["listing"]:
                order = [(colors.index(t.color), shapes.index(t.shape), t.place) for t in seen]
                assert scene_in_listing(answer) == tuple(
                    Thing(place, colors[color], shapes[shape])
                    for color, shape, place in sorted(order)
                )
            else:
                assert prompt in PROMPTS["image"]
                assert scene_in_words(answer) == tuple(sorted(seen))
    assert set(prompts) == {prompt for some in PROMPTS.values() for prompt in some}
    assert min(prompts.values()) > 25
    assert 0.15 < sum(prompts[prompt] for prompt in PROMPTS["video"]) / len(source) < 0.25
    assert as_weighted(crowds)


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("kind", ["video_caption", "text_caption"])
def test_captions_tell_the_whole_scene(kind, split):
    for record in SyntheticSource({kind: 1.0}, split=split, size=60, seed=1):
        (_, answer) = only(parts_of(record["text"])[1])
        if kind == "video_caption":
            frames = only(record["videos"])
            seen = [set(scene_in_pixels(frame)) for frame in (frames[0], frames[-1])]
            assert [set(scene) for scene in ends_in_words(answer)] == seen
            assert len(frames) == 4
        else:
            scene = scene_in_words(answer)
            assert held_out(scene) == (split == "heldout")
            assert scene == tuple(sorted(scene))


@pytest.mark.parametrize("kind", ["text_scene", "text_two_images", "text_description"])
def test_told_scenes_stand_in_any_order(kind):
    orders = Counter()
    for text in iter_texts(SyntheticSource({kind: 1.0}, size=3000, turns=1)):
        for line in parts_of(text)[0]:
            if line.startswith("The video"):
                continue
            places = [thing.place for thing in scene_in_words(line.split(" shows ")[1])]
            orders[tuple(sorted(places).index(place) for place in places)] += 1
    for count in (2, 3, 4):
        shares = [orders[order] for order in permutations(range(count))]
        assert sum(shares) > 200
        assert stats.chisquare(shares).pvalue > 0.001, shares


def every_clip(split):
    """All straight moves of every object beside every other one, both ends in the split."""
    names = list(product(COLORS, SHAPES))
    found = set()
    for start, stop, beside in permutations(range(4), 3):
        if start // 2 != stop // 2 and start % 2 != stop % 2:
            continue
        for mover, rest in permutations(names, 2):
            bystander = Thing(beside, *rest)
            ends = [(Thing(place, *mover), bystander) for place in (start, stop)]
            if all(held_out(scene) == (split == "heldout") for scene in ends):
                found.add(Clip(Thing(start, *mover), stop, bystander))
    return found


@pytest.mark.parametrize(("split", "count"), [("train", 1716), ("heldout", 20)])
def test_clips_of_both_splits_exist_and_are_drawn_quickly(split, count):
    clips = every_clip(split)
    assert len(clips) == count
    assert {way(clip.mover.place, clip.stop) for clip in clips} == {"left", "right", "up", "down"}
    rng = random.Random(0)
    start = time.perf_counter()
    drawn = {sample_clip(rng, split) for _ in range(400)}
    assert time.perf_counter() - start < 20
    assert drawn <= clips and len(drawn) >= min(count, 300)


def test_the_splits_share_no_scene():
    found = {}
    for split in ("train", "heldout"):
        source = SyntheticSource({"text_two_images": 1.0}, split=split, size=2500, turns=1)
        contexts = [parts_of(text)[0] for text in iter_texts(source)]
        found[split] = {
            tuple(sorted(scene_in_words(line.split(" shows ")[1])))
            for lines in contexts
            for line in lines
        }
    assert not found["train"] & found["heldout"]
    assert not any(map(held_out, found["train"])) and all(map(held_out, found["heldout"]))
    assert all({len(scene) for scene in scenes} == {1, 2, 3, 4} for scenes in found.values())


def test_held_out_is_a_tenth_and_does_not_see_the_order():
    rng = random.Random(0)
    scenes = [
        tuple(
            Thing(place, rng.choice(list(COLORS)), rng.choice(list(SHAPES)))
            for place in rng.sample(range(4), 3)
        )
        for _ in range(4000)
    ]
    assert 0.08 < np.mean([held_out(scene) for scene in scenes]) < 0.12
    assert all(held_out(scene) == held_out(scene[::-1]) for scene in scenes)


def fingerprint(source):
    digest = hashlib.sha256()
    for index in (0, 7, 41, 99):
        record = source[index]
        digest.update(record["text"].encode() + record["task_type"].encode())
        for image in [*record["images"], *(frame for video in record["videos"] for frame in video)]:
            digest.update(image.tobytes())
    return digest.hexdigest()


def test_a_record_depends_on_seed_split_and_index_only():
    source = SyntheticSource(EVERY_KIND, size=100, seed=5)
    expected = fingerprint(source)
    turned = dict(reversed(EVERY_KIND.items()))
    assert fingerprint(SyntheticSource(turned, size=1000, seed=5)) == expected
    assert fingerprint(pickle.loads(pickle.dumps(source))) == expected
    assert fingerprint(SyntheticSource(EVERY_KIND, size=100, seed=6)) != expected
    assert fingerprint(SyntheticSource(EVERY_KIND, "heldout", size=100, seed=5)) != expected
    script = (
        "from test_synthetic import EVERY_KIND, SyntheticSource, fingerprint;"
        "print(fingerprint(SyntheticSource(EVERY_KIND, size=100, seed=5)))"
    )
    other = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == expected


def test_records_are_what_they_always_were():
    """Read as a mixture reads them; the demonstration's results hang on every bit."""
    records = open_source(SyntheticSource(EVERY_KIND, size=100, seed=5))
    assert fingerprint(records) == RECORDED
    assert records[7]["where"] == "synthetic:7"


def test_iter_texts_are_the_texts_of_the_records():
    source = SyntheticSource(EVERY_KIND, size=60)
    assert list(iter_texts(source)) == [record["text"] for record in source]
    assert {record["task_type"] for record in source} == set(KINDS)


def test_kinds_follow_their_weights():
    source = SyntheticSource({"text_math": 3.0, "text_facts": 1.0, "vqa": 0.0}, size=4000)
    math = sum("What is 1" in text or " + " in text or " - " in text for text in iter_texts(source))
    assert 0.72 < math / 4000 < 0.78


def without_slots(question):
    """The question with every colour, shape and number of a picture left out."""
    slots = "|".join([*COLORS, "circles?", "squares?", "triangles?", "first|second"])
    return re.sub(rf"\b({slots})\b", "_", question)


def conclusion(answer):
    """What an answer ends with: the part that was asked for."""
    return re.split(r", so | is (?:a (?:\w+ (?=\w))?)?| has | moves | at ", answer.rstrip("."))[-1]


def questions_and_conclusions(kind, split, size, seed=0):
    texts = iter_texts(SyntheticSource({kind: 1.0}, split=split, size=size, seed=seed, turns=1))
    asked = [only(parts_of(text)[1]) for text in texts]
    return [(question, conclusion(answer)) for question, answer in asked]


@pytest.fixture(scope="module", params=IMAGE_KINDS)
def seen_without_pictures(request):
    """A kind, and of each of its questions, also without slots, how often it has which answer."""
    seen = defaultdict(Counter)
    for question, answer in questions_and_conclusions(request.param, "train", 20000):
        seen[question][answer] += 1
        seen[without_slots(question)][answer] += 1
    return request.param, seen


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_blind_guessing_does_not_pay(seen_without_pictures, split):
    """Who knows the best conclusion for each question, but sees no picture, is mostly wrong."""
    kind, seen = seen_without_pictures
    right, total = Counter(), Counter()
    for question, answer in questions_and_conclusions(kind, split, 4000, seed=1):
        known = question if seen[question].total() >= 20 else without_slots(question)
        guess = max(seen[known], key=seen[known].get, default="")
        family = " ".join(question.split()[:2])
        right[family] += guess == answer
        total[family] += 1
    rates = {family: right[family] / total[family] for family in total}
    # Two fifths of the scenes have two objects, so that a guess of two is often right.
    assert right.total() / total.total() < 0.38
    assert max(rates.values()) < 0.55, rates


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("kind", ["vqa", "two_images"])
def test_yes_and_no_are_equally_frequent(kind, split):
    texts = iter_texts(SyntheticSource({kind: 1.0}, split=split, size=4000, turns=2))
    answers = Counter(conclusion(answer) for text in texts for _, answer in parts_of(text)[1])
    assert answers["yes"] + answers["no"] > 800
    assert abs(answers["yes"] / (answers["yes"] + answers["no"]) - 0.5) < 0.03


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_questions_are_single_and_right(split):
    found = questions(split, seed=1, count=240, kinds=QUESTION_KINDS)
    assert [question.kind for question in found[: len(QUESTION_KINDS)]] == list(QUESTION_KINDS)
    for question in found:
        context, turns = parts_of(question.prompt_text + question.answer)
        assert turns == [(question.question, question.answer)]
        assert question.prompt_text.endswith(f"\nHuman: {question.question}\nAI: ")
        if question.ability in ("math", "facts"):
            assert re.fullmatch(r"\w+", question.answer)
            continue
        facts = facts_of(question.kind, context, question.images, question.videos)
        solver = SOLVERS.get(question.ability, solve_scene)
        assert solver(question.question, facts) == question.answer
        assert all(
            held_out(scene) == (split == "heldout") for scene in scenes_of(question.kind, facts)
        )
    abilities = {question.ability for question in found}
    assert abilities == {
        "colour", "shape", "count", "position", "comparison",
        "two_images", "video", "math", "facts",
    }  # fmt: skip
    again = questions(split, seed=1, count=240, kinds=QUESTION_KINDS)
    assert [q.prompt_text for q in again] == [q.prompt_text for q in found]
    other = questions(split, 2, 240, QUESTION_KINDS)
    assert [q.prompt_text for q in other] != [q.prompt_text for q in found]


def closed_list(kind, split):
    """Every question of a closed list, by asking until they repeat."""
    answers = {}
    for question in questions(split, seed=0, count=1000, kinds=[kind]):
        if question.question in answers:
            return answers
        answers[question.question] = question.answer
    raise AssertionError("the list is longer than expected")


def test_sums_are_right_and_a_tenth_is_held_out():
    train, heldout = closed_list("text_math", "train"), closed_list("text_math", "heldout")
    assert not train.keys() & heldout.keys()
    assert 0.06 < len(heldout) / (len(train) + len(heldout)) < 0.14
    for question, answer in (train | heldout).items():
        a, sign, b = re.fullmatch(r"What is (\d+) ([+-]) (\d+)\?", question).groups()
        assert int(a) + int(b) * (1 if sign == "+" else -1) == int(answer) >= 0
        assert sign == "-" or int(a) > 9 or (f"What is {b} + {a}?" in train) == (question in train)


def test_held_out_facts_are_trained_in_another_phrasing():
    train, heldout = closed_list("text_facts", "train"), closed_list("text_facts", "heldout")
    assert not train.keys() & heldout.keys()
    assert len(train) + len(heldout) == 2 * 61
    assert len(heldout) == 30
    assert set(heldout.values()) <= set(train.values())
    for question, answer in heldout.items():
        subject = re.findall(r"\w+", question)[-1]
        known = [words for words, same in train.items() if same == answer]
        assert any(subject in re.findall(r"\w+", words) for words in known)


@pytest.mark.parametrize("size", [48, 96, 200])
def test_pictures_have_the_colours_at_the_places(size):
    rng = random.Random(size)
    for _ in range(40):
        scene = sample_scene(rng, "train")
        image = render(scene, size, rng)
        assert image.size == (size, size) and image.mode == "RGB"
        assert scene_in_pixels(image) == scene
        pixels, rest = np.asarray(image, np.int64), np.ones((size, size), bool)
        for blob in blobs(image):
            middle = pixels[tuple(map(round, blob.centre))]
            assert np.abs(middle - COLORS[blob.color]).max() < 12
            rest[blob.rows, blob.columns][blob.mask] = False
        assert pixels[~ndimage.binary_dilation(~rest, iterations=2)].max() < 90


@pytest.fixture(scope="module")
def drawn():
    """Blobs of many pictures, which have 48 pixels a quarter."""
    rng = random.Random(4)
    return [blobs(render(sample_scene(rng, "train"), 96, rng)) for _ in range(250)]


def test_objects_lie_anywhere_in_their_quarters(drawn):
    """At 0.15 of a quarter or more from its borders; some cross into another quarter."""
    for axis in (0, 1):
        centres = [blob.centre[axis] / 48 for seen in drawn for blob in seen]
        assert min(abs(centre - 1) for centre in centres) > 0.12
        assert max(abs(centre - 1) for centre in centres) > 0.6
        assert min(abs(centre - 1) for centre in centres) < 0.2
        # In between all are about as frequent; a little outward, where others are not in the way.
        within = [abs(centre - 1) for centre in centres if 0.2 < abs(centre - 1) < 0.5]
        assert abs(np.mean(within) - 0.35) < 0.03
    crossing = [blob.rows.start < 47 and blob.rows.stop > 49 for seen in drawn for blob in seen]
    assert 0.1 < np.mean(crossing) < 0.6


def test_every_shape_has_three_sizes_and_is_whole(drawn):
    sides = defaultdict(list)
    for blob in (blob for seen in drawn for blob in seen):
        height, width = blob.mask.shape
        assert abs(height * (2.16 / 1.88 if blob.shape == "triangle" else 1) - width) < 3
        sides[blob.shape].append(width / 48)
    assert set(sides) == set(SHAPES)
    halves = {"circle": 1.0, "square": 0.88, "triangle": 1.08}
    for shape, widths in sides.items():
        radii = np.array(widths) / (2 * halves[shape])
        nearest = np.abs(radii[:, None] - [0.28, 0.34, 0.4])
        assert nearest.min(1).max() < 0.04
        assert min(np.bincount(nearest.argmin(1), minlength=3)) > 0.1 * len(radii)


def test_objects_never_touch(drawn):
    """Nor do they come nearer than two pixels; clips are checked in every frame."""
    rng = random.Random(9)
    clips = [render_clip(sample_clip(rng, "train"), 96, rng, frames=7) for _ in range(20)]
    for seen in [*drawn, *(blobs(frame) for clip in clips for frame in clip)]:
        taken = np.zeros((96, 96), bool)
        for blob in seen:
            taken[blob.rows, blob.columns] |= blob.mask
        assert ndimage.label(ndimage.binary_dilation(taken))[1] == len(seen)
    for clip in clips:
        areas = [sorted((b.color, b.shape, b.mask.sum()) for b in blobs(frame)) for frame in clip]
        for frame in areas:
            assert [blob[:2] for blob in frame] == [blob[:2] for blob in areas[0]]
            for (*_, area), (*_, first) in zip(frame, areas[0], strict=True):
                assert abs(area / first - 1) < 0.1  # nothing is cut off by the border


def test_crowded_scenes_are_drawn_quickly():
    """Objects are placed by trial and error; the widest shapes take the most trials."""
    scene = tuple(Thing(place, "red", "triangle") for place in range(4))
    rng = random.Random(2)
    start = time.process_time()
    for _ in range(50):
        render(scene, 24, rng)
    assert time.process_time() - start < 5


def test_normalize_answer():
    assert normalize_answer(" The Top  left. ") == "top left"
    assert normalize_answer("An owl, a bird!") == "owl bird"
    assert normalize_answer("13") == "13"
    assert normalize_answer("") == ""


def test_settings_that_make_no_sense_are_refused():
    for settings in (
        {"kinds": {"vqa": 1.0, "vqq": 1.0}},
        {"kinds": {}},
        {"kinds": {"vqa": 0.0}},
        {"kinds": {"vqa": -1.0, "video": 2.0}},
        {"kinds": {"vqa": 1.0}, "split": "test"},
        {"kinds": {"vqa": 1.0}, "size": 0},
        {"kinds": {"vqa": 1.0}, "turns": 0},
        {"kinds": {"vqa": 1.0}, "image_size": 8},
        {"kinds": {"vqa": 1.0}, "abilities": {"place": 1.0}},
        {"kinds": {"vqa": 1.0}, "abilities": {"position": 0.0}},
    ):
        with pytest.raises(UserError):
            SyntheticSource(**settings)
    with pytest.raises(UserError, match="caption"):
        questions("heldout", 0, 4, ["caption"])
    with pytest.raises(UserError, match="split"):
        questions("validation", 0, 4, ["vqa"])
    source = SyntheticSource({"vqa": 1.0}, size=5)
    assert len(source) == 5 and source[np.int64(4)] == source[4]
    with pytest.raises(IndexError):
        source[5]


def test_abilities_have_weights():
    def share(abilities):
        source = SyntheticSource({"text_scene": 1.0}, size=400, turns=1, abilities=abilities)
        return sum("Human: Where is" in text for text in iter_texts(source)) / len(source)

    assert 0.1 < share({}) < 0.25
    assert 0.4 < share({"position": 4.0}) < 0.6


def test_speed():
    source = SyntheticSource({"caption": 1.0, "vqa": 2.0, "text_facts": 1.0}, size=200)
    start = time.perf_counter()
    count = sum(len(record["text"]) > 0 for record in source)
    print(f"{count / (time.perf_counter() - start):.0f} records/s")
    assert count == 200
