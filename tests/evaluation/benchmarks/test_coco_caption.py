import json
import math

import pytest

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import Medium
from owl_jax.evaluation.benchmarks.coco_caption import CocoCaption
from owl_jax.evaluation.scorers.captions import Cider, bleu, bleu_counts, rouge_l
from owl_jax.evaluation.scorers.ptb_tokens import ptb_tokens


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man (left) isn't here.", "a man -lrb- left -rrb- is n't here"),
        ("He CAN'T; he won't...", "he ca n't he wo n't"),
        ("the dog's 'new' bowl", "the dog 's new bowl"),
        ("the dogs’ “new” bowl", "the dogs new bowl"),
        ("They've seen it cannot be gonna", "they 've seen it can not be gon na"),
        ("at 10:30 a.m., U.S. time", "at 10:30 a.m. u.s. time"),
        ("Mr. Owl vs. St. Bird.", "mr. owl vs. st. bird"),
        ("a well-lit t-shirt -- 3-d", "a well-lit t-shirt 3-d"),
        ("$5.00 and 1,000 (50%)", "$ 5.00 and 1,000 -lrb- 50 % -rrb-"),
        ("black/white, 1/2", "black\\/white 1\\/2"),
        ("two o'clock ma'am", "two o'clock ma'am"),
        ("see https://a.b/c?d now", "see https://a.b/c?d now"),
        ("one\ntwo\tthree", "one two three"),
        ("Wait! Why?", "wait why"),
        ("", ""),
    ],
)
def test_tokens(caption, tokens):
    assert " ".join(ptb_tokens(caption)) == tokens


def test_an_empty_caption_scores_zero():
    references = [["a", "b"], ["a"]]
    counts = bleu_counts([], references)
    assert (counts.total, counts.reference_length) == ((0, 0, 0, 0), 1)
    assert bleu([counts]) == pytest.approx([0.0] * 4)
    assert rouge_l([], references) == 0.0
    assert Cider([references, [["c"]]]).score([], references) == 0.0


def test_bleu_clips_counts_and_takes_the_closest_length():
    counts = bleu_counts(["the"] * 4, [["the", "cat"], ["the", "the", "dog", "sat", "down"]])
    assert counts.matched == (2, 1, 0, 0)
    assert counts.reference_length == 5
    assert bleu([counts])[0] == pytest.approx(0.5 * math.exp(1 - 5 / 4))
    assert bleu_counts(["a"] * 3, [["a"] * 4, ["a"] * 2]).reference_length == 2  # of two, shorter


def test_rouge_takes_precision_and_recall_from_different_references():
    """Precision 1 from the long reference, recall 1 from the short one."""
    assert rouge_l(["a", "b"], [["a", "x", "b", "y"], ["b"]]) == 1.0


def test_cider_depends_on_the_set_of_references():
    owl, cat = [["an", "owl"]], [["a", "cat"]]
    alone, both = Cider([owl]).score(owl[0], owl), Cider([owl, cat]).score(owl[0], owl)
    assert alone == 0.0  # what all pictures have counts nothing
    assert both == pytest.approx(10 * 2 / 4)


def captions(folder, split="val2014"):
    folder.mkdir(exist_ok=True)
    (folder / f"captions_{split}.json").write_text(
        json.dumps(
            {
                "images": [{"id": 5, "file_name": "five.jpg"}, {"id": 6, "file_name": "six.jpg"}],
                "annotations": [{"image_id": 5, "caption": text} for text in ("An owl.", "Owl")],
            }
        )
    )


def test_the_official_file(tmp_path):
    captions(tmp_path)
    [item] = CocoCaption().read(tmp_path)
    assert [item] == CocoCaption().read(tmp_path / "captions_val2014.json")
    assert item.media == (Medium("image", tmp_path / "val2014" / "five.jpg"),)
    assert (item.id, item.fields["captions"]) == ("5", ["An owl.", "Owl"])
    parts = CocoCaption().question(item).parts
    assert parts == (*item.media, "Provide a one-sentence caption for the provided image.")


def test_the_folder_as_it_is_downloaded(tmp_path):
    captions(tmp_path / "annotations")
    [item] = CocoCaption().read(tmp_path)
    assert item.media == (Medium("image", tmp_path / "val2014" / "five.jpg"),)
    captions(tmp_path / "annotations", "train2014")
    with pytest.raises(UserError, match=r"has captions_train2014.json, captions_val2014.json; exp"):
        CocoCaption().read(tmp_path)
    assert CocoCaption().read(tmp_path / "annotations" / "captions_val2014.json") == [item]


def karpathy(split):
    return {
        "filepath": "val2014",
        "filename": f"{split}.jpg",
        "cocoid": 7,
        "split": split,
        "sentences": [{"raw": "An owl."}],
    }


def test_karpathy_s_test_split(tmp_path):
    captions(tmp_path)
    images = [karpathy(split) for split in ("train", "test", "restval")]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    [item] = CocoCaption().read(tmp_path)
    assert item.media == (Medium("image", tmp_path / "val2014" / "test.jpg"),)
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images[:1]}))
    with pytest.raises(UserError, match=r"no picture of the split test"):
        CocoCaption().read(tmp_path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"questions": []}, "found the keys questions; expected images, annotations"),
        (
            {"images": [], "annotations": []},
            r"annotations is \[\]; expected a list that is not empty",
        ),
        (
            {"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "a"}]},
            "image 1: found the keys id",
        ),
        ({"images": [], "annotations": [{"image_id": 1}]}, "annotation 1: found the keys image_id"),
        ([], r"found \[\]; expected an object"),
    ],
)
def test_other_files(value, words, tmp_path):
    (tmp_path / "captions_val2014.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=words):
        CocoCaption().read(tmp_path)
