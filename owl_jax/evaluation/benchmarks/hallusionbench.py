"""HallusionBench: yes/no questions about pictures that mislead. arXiv 2310.14566,
github.com/tianyi-lab/HallusionBench (evaluation.py, utils.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    Question,
    Verdict,
    by_category,
    grouped,
    mean,
)
from owl_jax.evaluation.data_files import check_texts, find, read_json_records
from owl_jax.evaluation.official_prompts import find_prompt
from owl_jax.evaluation.scorers import yes_no

_NAMES = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
_KEYS = (*_NAMES, "question", "gt_answer", "gt_answer_details", "filename")
_TRUTHS = {"0": "No", "1": "Yes"}
_WRONG, _CORRECT, _UNCLEAR = "0", "1", "2"  # the judge's verdicts, as the official code names them
_VERDICTS = {_WRONG: "incorrect", _CORRECT: "correct", _UNCLEAR: "unclear"}
_HARD = "2"  # visual_input of an edited picture

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

Key = tuple[str, ...]
Right = Callable[[Judged], bool]


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
        prompts = {
            "correctness_prompt": _find_prompt(path.parent, _CORRECTNESS_MARKERS, _CORRECTNESS),
            "same_prompt": _find_prompt(path.parent, _SAME_MARKERS, _SAME),
        }
        items = [
            _item(record, prompts, path.parent, f"{path}: entry {number}")
            for number, record in enumerate(records, 1)
        ]
        originals = {_question_key(item) for item in items if _is_original(item)}
        for item in items:
            if _question_key(item) not in originals:
                raise UserError(f"{path}: {item.id} has no question about figure 0")
        return items

    def question(self, item: Item) -> Question:
        return Question((*item.media, item.question))

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        if ask is None:
            return [_by_words(item, answers[item.id]) for item in items]
        originals = {_question_key(item): answers[item.id] for item in items if _is_original(item)}
        calls = [_correctness_call(item, answers[item.id]) for item in items]
        calls += [
            _same_call(item, answers[item.id], originals[_question_key(item)]) for item in items
        ]
        replies = ask(calls)
        pairs = zip(replies[: len(items)], replies[len(items) :], strict=True)
        return [
            _by_judge(item, correctness, same)
            for item, (correctness, same) in zip(items, pairs, strict=True)
        ]

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        scores = _official(judged)
        return scores if _with_judge(judged) else {"yes_no_words": scores}

    def headline_value(self, judged: Sequence[Judged]) -> float:
        return 100 * mean(map(_right, judged))

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """Toolkits drop the questions without a picture. lmms_eval_images_only: the judge's
        verdicts on the rest, or yes where "yes" is anywhere in the answer (shares).
        vlmevalkit_images_only_exact_matching: the one word yes or no; unlike the official code, it
        puts VD and VS figures of one number and subcategory together."""
        seen = [one for one in judged if one.item.media]
        lmms_eval = {
            "yes_found": {
                "aAcc": mean(map(_yes_found, seen)),
                "fAcc": _whole_share(seen, _figure_key, _yes_found),
                "qAcc": _whole_share(seen, _question_key, _yes_found),
            }
        }
        if _with_judge(judged):
            lmms_eval["judge"] = {
                "aAcc": _percent(mean(map(_right, seen))),
                "fAcc": _percent(_whole_share(seen, _figure_key, _right)),
                "qAcc": _percent(_whole_share(seen, _question_key, _right)),
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


def _find_prompt(data: Path, markers: Sequence[str], own: str) -> str:
    found = [find_prompt(data, _SCRIPT, marker) for marker in markers]
    return "".join(map(str, found)) if all(found) else own


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
    code = _WRONG if "incorrect" in reply else _CORRECT if "correct" in reply else _UNCLEAR
    details = {"code": code, "same": "same" in same.lower(), "judge": True}
    return Verdict(_VERDICTS[code], float(_accepted(item, code)), details)


def _by_words(item: Item, answer: str) -> Verdict:
    word = yes_no.whole_word(answer)
    code = _UNCLEAR if word is None else _CORRECT if word == item.truth else _WRONG
    return Verdict(word, float(_accepted(item, code)), {"code": code, "judge": False})


def _accepted(item: Item, code: str) -> bool:
    """Without a picture, not to know is right too."""
    unknown = item.fields["kind"] == "VS" and _is_original(item)
    return code == _CORRECT or (unknown and code == _UNCLEAR)


def _official(judged: Sequence[Judged]) -> dict[str, Any]:
    parts = {
        **{
            kind: [one for one in judged if one.item.fields["kind"] == kind]
            for kind in ("VD", "VS")
        },
        "Overall": judged,
    }
    questions = {name: _percent(mean(map(_right, some))) for name, some in parts.items()}
    figures = {name: _figures(some) for name, some in parts.items()}
    pairs = {
        name: {
            level: _percent(_whole_share(some, _question_key, _right))
            for level, some in (("Easy", _level(part, False)), ("Hard", _level(part, True)))
        }
        | {"Total": _percent(_whole_share(part, _question_key, _right))}
        for name, part in parts.items()
    }
    scores: dict[str, Any] = {
        "aAcc": questions["Overall"],
        "fAcc": _percent_of(figures["Overall"]["correct"], figures["Overall"]["total"]),
        "qAcc": pairs["Overall"]["Total"],
        "easy aAcc": pairs["Overall"]["Easy"],
        "hard aAcc": pairs["Overall"]["Hard"],
        "per_question": [["per question", "Total"], *map(list, questions.items())],
        "per_figure": [
            ["per figure", "Correct", "Wrong", "Score"],
            *([name, *_figure_row(counts)] for name, counts in figures.items()),
        ],
        "per_question_pair": [
            ["per question pair", "Easy", "Hard", "Total"],
            *([name, *row.values()] for name, row in pairs.items()),
        ],
        "yes_no_bias": _bias(judged),
        "figure_stat": {
            "note": "all accuracy per image (consistency test)",
            **figures["Overall"],
        },
    }
    if _with_judge(judged):
        causes = _causes(judged)
        scores["pair_stat"] = {"note": "all accuracy per question pair", **causes}
        scores["consistency_and_causes"] = _summary(
            scores["yes_no_bias"], figures["Overall"], causes
        )
    return scores


def _summary(
    bias: Mapping[str, float], figures: Mapping[str, float], causes: Mapping[str, int]
) -> dict[str, float]:
    errors = causes["LH_cg"] + causes["VI_cg"] + causes["Mix_cg"]
    return {
        "Yes/No Bias (Pct Diff)": bias["diff"],
        "Yes/No Bias (FP Ratio)": bias["fp"],
        **{
            f"Consistency Test ({name})": _percent_of(figures[name], figures["total"])
            for name in ("correct", "inconsistent", "wrong")
        },
        **{
            name: _percent_of(causes[key], errors)
            for name, key in (("LH", "LH_cg"), ("VI", "VI_cg"), ("Mixed", "Mix_cg"))
        },
    }


def _figures(judged: Sequence[Judged]) -> dict[str, float]:
    """Figures with all, none and some of their questions right; questions without one are none."""
    shown_ones = [
        one for one in judged if one.item.fields["kind"] == "VD" or not _is_original(one.item)
    ]
    shares = [mean(map(_right, few)) for few in _grouped(shown_ones, _figure_key)]
    correct, wrong = shares.count(1.0), shares.count(0.0)
    return {
        "total": len(shares),
        "correct": correct,
        "wrong": wrong,
        "inconsistent": len(shares) - correct - wrong,
        "score": mean(shares),
    }


def _figure_row(counts: Mapping[str, float]) -> list[float]:
    correct, inconsistent, wrong = (
        _percent_of(counts[name], counts["total"]) for name in ("correct", "inconsistent", "wrong")
    )
    return [correct, inconsistent + wrong, round(counts["score"], 4)]


def _bias(judged: Sequence[Judged]) -> dict[str, float]:
    """As the official code has it: a model's yes is that its being right equals the truth."""
    truths = [one.item.truth == "Yes" for one in judged]
    said = [_right(one) == truth for one, truth in zip(judged, truths, strict=True)]
    wrong = [one.item.truth == "No" for one in judged if not _right(one)]
    return {"diff": mean(said) - mean(truths), "fp": mean(wrong)}


def _causes(judged: Sequence[Judged]) -> dict[str, int]:
    """Wrong question pairs and (cg) wrong answers by cause: language hallucination (LH), visual
    illusion (VI), or both (Mix)."""
    originals = {
        _question_key(one.item): one.verdict.details["code"]
        for one in judged
        if _is_original(one.item)
    }
    pairs = [
        [_cause(one, originals.get(_question_key(one.item), _UNCLEAR)) for one in few]
        for few in _grouped(judged, _question_key)
    ]
    wholes = [(any(lh for lh, _ in pair), any(vi for _, vi in pair)) for pair in pairs]
    singles = [cause for pair in pairs for cause in pair]
    correct = sum(all(map(_right, few)) for few in _grouped(judged, _question_key))
    return {
        "total": len(pairs),
        "total_q": len(judged),
        "correct": correct,
        "wrong": len(pairs) - correct,
        **_named(wholes, ""),
        **_named(singles, "_cg"),
    }


def _named(causes: Sequence[tuple[bool, bool]], ending: str) -> dict[str, int]:
    return {
        f"LH{ending}": causes.count((True, False)),
        f"VI{ending}": causes.count((False, True)),
        f"Mix{ending}": causes.count((True, True)),
    }


def _cause(one: Judged, original: str) -> tuple[bool, bool]:
    """Whether language, and whether vision, is to blame; neither for what is right.

    original: the verdict on the same question about figure 0.
    """
    code, same, fields = one.verdict.details["code"], one.verdict.details["same"], one.item.fields
    if _right(one):
        return False, False
    if fields["kind"] == "VD":
        # The original is right and the changed figure got the same answer: it may be either.
        changed = not _is_original(one.item) and original == _CORRECT and code == _WRONG
        return changed and same, True
    if _is_original(one.item):
        return True, False
    if original == _WRONG:
        only_language = code == _WRONG and same
        return True, not only_language
    repeated = original == _CORRECT and code == _WRONG and fields["visual_input"] == _HARD and same
    return repeated, not repeated


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
        return _figure_key(item)[1:]

    def question(item: Item) -> Key:
        return _question_key(item)[1:]

    return {
        "aAcc": 100 * mean(map(right, judged)),
        "fAcc": 100 * _whole_share(judged, figure, right),
        "qAcc": 100 * _whole_share(judged, question, right),
    }


def _level(judged: Iterable[Judged], hard: bool) -> list[Judged]:
    return [one for one in judged if (one.item.fields["visual_input"] == _HARD) == hard]


def _whole_share(judged: Iterable[Judged], key: Callable[[Item], Key], right: Right) -> float:
    """The share of groups of which all are right."""
    return mean(all(map(right, few)) for few in _grouped(judged, key))


def _grouped(judged: Iterable[Judged], key: Callable[[Item], Key]) -> list[list[Judged]]:
    return list(grouped(judged, lambda one: key(one.item)).values())


def _question_key(item: Item) -> Key:
    fields = item.fields
    return fields["kind"], fields["subcategory"], fields["set"], fields["question"]


def _figure_key(item: Item) -> Key:
    fields = item.fields
    return fields["kind"], fields["subcategory"], fields["set"], fields["figure"]


def _is_original(item: Item) -> bool:
    return item.fields["figure"] == "0"


def _right(one: Judged) -> bool:
    return one.verdict.score == 1.0


def _yes_found(one: Judged) -> bool:
    return ("yes" in one.answer.lower()) == (one.item.truth == "Yes")


def _with_judge(judged: Sequence[Judged]) -> bool:
    return any(one.verdict.details.get("judge") for one in judged)


def _percent(share: float) -> float:
    return round(100 * share, 4)


def _percent_of(count: float, total: float) -> float:
    return _percent(count / total) if total else 0.0
