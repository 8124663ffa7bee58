"""COCO captions: arXiv 1504.00325, scored as github.com/salaniz/pycocoevalcap does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError
from owl_jax.evaluation.benchmark import (
    Ask,
    Benchmark,
    Item,
    Judged,
    Medium,
    Question,
    Verdict,
    mean,
)
from owl_jax.evaluation.data_files import (
    check_ids,
    check_texts,
    checked,
    checked_list,
    find_only,
    read_json,
)
from owl_jax.evaluation.scorers.captions import ORDER, Cider, bleu, bleu_counts, rouge_l
from owl_jax.evaluation.scorers.ptb_tokens import ptb_tokens

_KARPATHY = "dataset_coco.json"


class CocoCaption(Benchmark):
    """One caption a picture, compared with people's five. METEOR and SPICE are not computed."""

    name = "coco_caption"
    kind = "caption"
    headline = "CIDEr"
    max_new_tokens = 64

    def read(self, data: Path) -> list[Item]:
        """captions_*.json, here or in annotations/, with pictures in the folder of its split, such
        as val2014/; or Karpathy's dataset_coco.json, of which the 5,000 test pictures are used."""
        path = find_only(data, _KARPATHY, "captions_*.json", "annotations/captions_*.json")
        folder = path.parent.parent if path.parent.name == "annotations" else path.parent
        whole = read_json(path)
        if path.name == _KARPATHY:
            return _karpathy(whole, path, folder)
        whole = checked(whole, ("images", "annotations"), str(path))
        references: dict[Any, list[str]] = {}
        for number, value in enumerate(checked_list(whole, "annotations", str(path)), 1):
            where = f"{path}: annotation {number}"
            record = checked(value, ("image_id", "caption"), where)
            check_ids(record, ("image_id",), where)
            check_texts(record, ("caption",), where)
            references.setdefault(record["image_id"], []).append(record["caption"])
        split = path.stem.removeprefix("captions_")
        items = []
        for number, value in enumerate(checked_list(whole, "images", str(path)), 1):
            where = f"{path}: image {number}"
            image = checked(value, ("id", "file_name"), where)
            check_ids(image, ("id",), where)
            check_texts(image, ("file_name",), where)
            if image["id"] in references:
                picture = folder / split / image["file_name"]
                items.append(_item(image["id"], picture, references[image["id"]]))
        if not items:
            raise UserError(f"{path} has no picture with captions; expected COCO's captions_*.json")
        return items

    def question(self, item: Item) -> Question:
        """COCO has no question: this is the one of LLaVA and mPLUG-Owl2."""
        return Question((*item.media, item.question))

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        """The score of an item is its CIDEr-D, among these items' references."""
        del ask
        references = [[ptb_tokens(text) for text in item.fields["captions"]] for item in items]
        cider = Cider(references)
        verdicts = []
        for item, given in zip(items, references, strict=True):
            tokens = ptb_tokens(answers[item.id])
            counts = bleu_counts(tokens, given)
            score = cider.score(tokens, given)
            details = {
                **_named(bleu([counts])),
                "ROUGE_L": rouge_l(tokens, given),
                "CIDEr": score,
                "bleu_counts": counts,
            }
            verdicts.append(Verdict(" ".join(tokens) or None, score, details))
        return verdicts

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        details = [one.verdict.details for one in judged]
        return {
            **_named(bleu([one["bleu_counts"] for one in details])),
            "ROUGE_L": mean(one["ROUGE_L"] for one in details),
            "CIDEr": mean(one["CIDEr"] for one in details),
        }

    def headline_value(self, judged: Sequence[Judged]) -> float:
        """n-grams keep the weights that they have among all the items."""
        return mean(one.verdict.score or 0.0 for one in judged)


def _karpathy(whole: Any, path: Path, folder: Path) -> list[Item]:
    items = []
    images = checked_list(checked(whole, ("images",), str(path)), "images", str(path))
    for number, value in enumerate(images, 1):
        where = f"{path}: image {number}"
        image = checked(value, ("filepath", "filename", "cocoid", "split", "sentences"), where)
        if image["split"] == "test":
            check_texts(image, ("filepath", "filename"), where)
            captions = []
            for sentence in checked_list(image, "sentences", where):
                check_texts(checked(sentence, ("raw",), where), ("raw",), where)
                captions.append(sentence["raw"])
            picture = folder / image["filepath"] / image["filename"]
            items.append(_item(image["cocoid"], picture, captions))
    if not items:
        raise UserError(f"{path} has no picture of the split test; expected Karpathy's split")
    return items


def _item(id: object, picture: Path, captions: Sequence[str]) -> Item:
    return Item(
        id=str(id),
        question="Provide a one-sentence caption for the provided image.",
        media=(Medium("image", picture),),
        truth=captions[0],
        group=str(id),
        fields={"captions": list(captions)},
    )


def _named(values: Sequence[float]) -> dict[str, float]:
    return {f"Bleu_{n}": value for n, value in zip(range(1, ORDER + 1), values, strict=True)}
