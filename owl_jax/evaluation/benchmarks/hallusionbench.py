"""HallusionBench: yes/no questions about pictures that mislead. arXiv 2310.14566,
github.com/tianyi-lab/HallusionBench (evaluation.py, utils.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, shown
from owl_jax.evaluation.benchmark import (
    Ask,
    Benchmark,
    Item,
    JudgeCall,
    Judged,
    Medium,
    Verdict,
    by_category,
    mean,
)
from owl_jax.evaluation.benchmarks.hallusion_tables import (
    CORRECT,
    UNCLEAR,
    WRONG,
    Key,
    accepted,
    figure_key,
    is_original,
    official,
    percent,
    question_key,
    whole_share,
    with_judge,
)
from owl_jax.evaluation.data_files import check_texts, find, read_json_records
from owl_jax.evaluation.official_prompts import find_prompt
from owl_jax.evaluation.scorers import yes_no

_NAMES = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
_KEYS = (*_NAMES, "question", "gt_answer", "gt_answer_details", "filename")
_TRUTHS = {"0": "No", "1": "Yes"}
_VERDICTS = {WRONG: "incorrect", CORRECT: "correct", UNCLEAR: "unclear"}

# The official prompts are in this script, which comes with the questions; each is several texts,
# and labels before what is filled in.
_SCRIPT = "utils.py"
_CORRECTNESS_MARKERS = ("Assess the correctness", "conflict with the reference answer")
_SAME_MARKERS = (
    *("Assess the consistency", "You do not know the specific questions"),
    "If response1 does not conflict",
)
# Our own words, without the script.
_CORRECTNESS = (
    "Compare a model's answer to a question with the reference. Reply with one word: correct if "
    "they agree, incorrect if they contradict each other, unclear if the answer leaves it open.\n\n"
    "Question:"
)
_SAME = (
    "These are answers to two questions that you do not see. Reply with one word: same if both can "
    "be true together, different if they contradict each other.\n\nresponse1:"
)


class HallusionBench(Benchmark):
    """1,129 questions: of pictures that must be seen (VD), and of facts that a picture may
    contradict (VS), which are also asked without one.

    A judge says whether an answer agrees with the reference, and whether it says the same as the
    answer about the original figure. aAcc: of questions. qAcc: of questions with all their figures.
    fAcc: of figures with all their questions. Without a judge, an answer means the one word yes or
    no in it, and the scores are under "yes_no_words", because they are not official.
    """

    name = "hallusionbench"
    kind = "yes_no"
    headline = "aAcc, per cent"

    def read(self, data: Path) -> list[Item]:
        """HallusionBench.json; pictures in hallusion_bench/."""
        path = find(data, "HallusionBench.json")
        records = read_json_records(path, _KEYS)
        correctness = _find_prompt(path.parent, _CORRECTNESS_MARKERS)
        same = _find_prompt(path.parent, _SAME_MARKERS)
        prompts = {
            "correctness_prompt": correctness or _CORRECTNESS,
            "same_prompt": same or _SAME,
            "judge_prompt_of": "official" if correctness and same else "own",
        }
        items = [
            _item(record, prompts, path.parent, f"{path}: entry {number}")
            for number, record in enumerate(records, 1)
        ]
        originals = {question_key(item) for item in items if is_original(item)}
        for item in items:
            if question_key(item) not in originals:
                raise UserError(f"{path}: {item.id} has no question about figure 0")
        return items

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        if ask is None:
            return [_by_words(item, answers[item.id]) for item in items]
        calls = [_correctness_call(item, answers[item.id]) for item in items]
        calls += [
            _same_call(item, answers[item.id], answers.get(_original_id(item), ""))
            for item in items
        ]
        replies = ask(calls)
        pairs = zip(replies[: len(items)], replies[len(items) :], strict=True)
        return [
            _by_judge(item, correctness, same)
            for item, (correctness, same) in zip(items, pairs, strict=True)
        ]

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        scores = official(judged)
        return scores if with_judge(judged) else {"yes_no_words": scores}

    def headline_value(self, judged: Sequence[Judged]) -> float:
        return 100 * mean(map(accepted, judged))

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """Toolkits drop the questions without a picture. lmms_eval_images_only: the judge's
        verdicts on the rest, or yes where "yes" is anywhere in the answer (shares).
        vlmevalkit_images_only_exact_matching: the one word yes or no; unlike the official code, it
        puts VD and VS figures of one number and subcategory together. judge_prompt: whose words
        the judge gets."""
        seen = [one for one in judged if one.item.media]
        lmms_eval = {
            "yes_found": {
                "aAcc": mean(map(_yes_found, seen)),
                "fAcc": whole_share(seen, figure_key, _yes_found),
                "qAcc": whole_share(seen, question_key, _yes_found),
            }
        }
        if with_judge(judged):
            lmms_eval["judge"] = {
                "aAcc": percent(mean(map(accepted, seen))),
                "fAcc": percent(whole_share(seen, figure_key, accepted)),
                "qAcc": percent(whole_share(seen, question_key, accepted)),
            }
        kinds = by_category(seen)
        return {
            "lmms_eval_images_only": lmms_eval,
            "vlmevalkit_images_only_exact_matching": {
                "Overall": _vlmevalkit(seen),
                **{
                    name: _vlmevalkit([one for members in found for one in members])
                    for name, found in _vlmevalkit_splits(kinds).items()
                },
            },
            "judge_prompt": sorted({one.item.fields["judge_prompt_of"] for one in judged}),
        }


def _item(record: Mapping[str, Any], prompts: Mapping[str, str], folder: Path, where: str) -> Item:
    check_texts(record, ("question", "gt_answer_details"), where)
    names = [str(record[key]) for key in _NAMES]
    kind, subcategory, visual, set_id, figure, question = names
    id = f"{kind}_{subcategory}_{set_id}_{figure}_{question}"
    truth = str(record["gt_answer"])
    if kind not in ("VD", "VS") or truth not in _TRUTHS:
        raise UserError(
            f"{where} has the category {shown(kind)} and gt_answer {shown(truth)}; expected "
            "VD or VS, and 0 or 1"
        )
    file = record["filename"]
    return Item(
        id=id,
        question=record["question"],
        media=(Medium("image", folder / "hallusion_bench" / str(file)),) if file else (),
        truth=_TRUTHS[truth],
        category=f"{kind}/{subcategory}",
        group=f"{kind}_{subcategory}_{set_id}",
        fields={
            "kind": kind,
            "subcategory": subcategory,
            "visual_input": visual,
            "figure": figure,
            "question": question,
            "set": set_id,
            "details": record["gt_answer_details"],
            **prompts,
        },
    )


def _original_id(item: Item) -> str:
    """Of the same question about figure 0."""
    return f"{item.group}_0_{item.fields['question']}"


def _find_prompt(data: Path, markers: Sequence[str]) -> str:
    return "".join(find_prompt(data, _SCRIPT, marker) or "" for marker in markers)


def _correctness_call(item: Item, answer: str) -> JudgeCall:
    prompt = (
        f"{item.fields['correctness_prompt']}{item.question}\n"
        f"Reference answer: {item.fields['details']}\nPrediction answer:{answer}\nOutput:"
    )
    return JudgeCall(item.id, prompt, "correctness")


def _same_call(item: Item, answer: str, original: str) -> JudgeCall:
    prompt = f"{item.fields['same_prompt']}{answer}\nresponse2: {original}\nOutput:"
    return JudgeCall(item.id, prompt, "same")


def _by_judge(item: Item, correctness: str | None, same: str | None) -> Verdict:
    if correctness is None or same is None:
        return Verdict(None, None)
    reply = correctness.lower()
    code = WRONG if "incorrect" in reply else CORRECT if "correct" in reply else UNCLEAR
    details = {"code": code, "same": "same" in same.lower(), "judge": True}
    return Verdict(_VERDICTS[code], float(_accepted(item, code)), details)


def _by_words(item: Item, answer: str) -> Verdict:
    word = yes_no.whole_word(answer)
    code = UNCLEAR if word is None else CORRECT if word == item.truth else WRONG
    return Verdict(word, float(_accepted(item, code)), {"code": code, "judge": False})


def _accepted(item: Item, code: str) -> bool:
    """Without a picture, not to know is right too."""
    unknown = item.fields["kind"] == "VS" and is_original(item)
    return code == CORRECT or (unknown and code == UNCLEAR)


def _vlmevalkit_splits(kinds: Mapping[str, list[Judged]]) -> dict[str, list[list[Judged]]]:
    splits: dict[str, list[list[Judged]]] = {}
    for category, members in kinds.items():
        for name in category.split("/"):
            splits.setdefault(name, []).append(members)
    return splits


def _vlmevalkit(judged: Sequence[Judged]) -> dict[str, float]:
    def right(one: Judged) -> bool:
        return yes_no.whole_word(one.answer) == one.item.truth

    # Without VD and VS.
    def figure(item: Item) -> Key:
        return figure_key(item)[1:]

    def question(item: Item) -> Key:
        return question_key(item)[1:]

    return {
        "aAcc": 100 * mean(map(right, judged)),
        "fAcc": 100 * whole_share(judged, figure, right),
        "qAcc": 100 * whole_share(judged, question, right),
    }


def _yes_found(one: Judged) -> bool:
    return ("yes" in one.answer.lower()) == (one.item.truth == "Yes")
