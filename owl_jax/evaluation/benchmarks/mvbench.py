"""MVBench: 20 tasks about short videos. arXiv 2311.17005, github.com/OpenGVLab/Ask-Anything
(video_chat2/mvbench.ipynb)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from owl_jax.errors import UserError, shown
from owl_jax.evaluation.benchmark import (
    LETTERS,
    Ask,
    Benchmark,
    Item,
    Judged,
    Medium,
    Question,
    Verdict,
    by_category,
    mean,
)
from owl_jax.evaluation.data_files import Record, check_texts, read_json_records
from owl_jax.evaluation.scorers.lmms_eval_letters import first_letter

_SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail "
    "and movement of objects, and the action and pose of persons. Based on your observations, "
    "select the best option that accurately addresses the question.\n"
)
_INSTRUCTION = "\nOnly give the best option."
_ANSWER_START = "Best option:("
_RETURNED = "("  # what the official code puts before the generated text

# Task: the folder of its videos below video/.
_TASKS = {
    "Action Sequence": "star/Charades_v1_480",
    "Action Prediction": "star/Charades_v1_480",
    "Action Antonym": "ssv2_video",
    "Fine-grained Action": "Moments_in_Time_Raw/videos",
    "Unexpected Action": "FunQA_test/test",
    "Object Existence": "clevrer/video_validation",
    "Object Interaction": "star/Charades_v1_480",
    "Object Shuffle": "perception/videos",
    "Moving Direction": "clevrer/video_validation",
    "Action Localization": "sta/sta_video",
    "Scene Transition": "scene_qa/video",
    "Action Count": "perception/videos",
    "Moving Count": "clevrer/video_validation",
    "Moving Attribute": "clevrer/video_validation",
    "State Change": "perception/videos",
    "Fine-grained Pose": "nturgbd",
    "Character Order": "perception/videos",
    "Egocentric Navigation": "vlnqa",
    "Episodic Reasoning": "tvqa/frames_fps3_hq",
    "Counterfactual Inference": "clevrer/video_validation",
}
# Only these show a part of the video, from start to end.
_PARTS = {
    "Action Sequence",
    "Action Prediction",
    "Object Interaction",
    "Action Localization",
    "Episodic Reasoning",
}


class MvBench(Benchmark):
    """The first word of an answer decides, compared with "(b)".

    An empty answer is right: the official rule looks for it inside "(b)". It counts as unparsed.
    """

    name = "mvbench"
    kind = "choice"
    modes = ("generate", "rank", "letter")
    headline = "accuracy over all items, per cent"
    max_new_tokens = 100
    media = frozenset({"video"})

    def read(self, data: Path) -> list[Item]:
        """json/*.json, a file a task; videos below video/ in the official folders."""
        items = []
        for task, folder in _TASKS.items():
            path = data / "json" / f"{_stem(task)}.json"
            if path.is_file():
                part = ("start", "end") if task in _PARTS else ()
                keys = ("video", "question", "candidates", "answer", *part)
                for place, record in enumerate(read_json_records(path, keys)):
                    items.append(_item(record, task, place, path, data / "video" / folder))
        if not items:
            raise UserError(
                f"--data={data} has no file such as json/action_sequence.json; expected the folder "
                "of MVBench's files"
            )
        return items

    def question(self, item: Item) -> Question:
        options = "".join(
            f"({letter}) {choice}\n" for letter, choice in zip(LETTERS, item.choices, strict=False)
        )
        text = f"Question: {item.question}\nOptions:\n{options}".rstrip() + _INSTRUCTION
        # The official code gives the system text twice: as such, and before the question.
        return Question((_SYSTEM, *item.media, _SYSTEM + text), _ANSWER_START)

    def judge(
        self, items: Sequence[Item], answers: Mapping[str, str], ask: Ask | None
    ) -> list[Verdict]:
        del ask
        verdicts = []
        for item in items:
            answer = _RETURNED + answers[item.id]
            letters = [
                letter for letter in LETTERS[: len(item.choices)] if _is_right(answer, letter)
            ]
            right = _is_right(answer, item.truth)
            verdicts.append(Verdict(letters[0] if len(letters) == 1 else None, float(right)))
        return verdicts

    def scores(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """`answer_prompt`: "(" before the answer, as the official code does. `raw`: without."""
        raw = [float(_is_right(one.answer, one.item.truth)) for one in judged]
        found: dict[str, Any] = {}
        for name, values in (
            ("official_answer_prompt", [one.verdict.score or 0.0 for one in judged]),
            ("official_raw", raw),
        ):
            tasks = _by_task(judged, values)
            found[name] = {task: 100 * mean(given) for task, given in tasks.items()}
            found[f"{name}_mean_of_tasks"] = mean(found[name].values())
            found[name]["Avg"] = 100 * mean(values)
        return found

    def headline_value(self, judged: Sequence[Judged]) -> float:
        return 100 * mean(one.verdict.score or 0.0 for one in judged)

    def variants(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """lmms-eval leaves empty answers out, and reads any lone letter from A to E. VLMEvalKit's
        rule is the official one after removing spaces. `official_first_line` is the official rule
        on the first line of the answer, which is all that the notebook keeps of what it generates.
        """
        answered = [one for one in judged if one.answer != ""]
        values = [float(first_letter(one.answer) == one.item.truth) for one in answered]
        tasks = _by_task(answered, values)
        stripped = [float(_is_right(one.answer.strip(), one.item.truth)) for one in judged]
        return {
            "lmms_eval": {
                **{task: 100 * mean(tasks.get(task, [])) for task in by_category(judged)},
                "all_items": 100 * mean(values),
            },
            "vlmevalkit_check_ans": 100 * mean(stripped),
            "official_first_line": 100
            * mean(
                _is_right(_RETURNED + one.answer.strip().split("\n")[0], one.item.truth)
                for one in judged
            ),
        }


def _item(record: Record, task: str, place: int, path: Path, folder: Path) -> Item:
    id = f"{path.stem}/{place}"
    check_texts(record, ("video", "question"), f"{path}: entry {place + 1}")
    choices, answer = record["candidates"], record["answer"]
    if not isinstance(choices, list) or answer not in choices:
        raise UserError(
            f"{path}: entry {place + 1}: the answer {shown(answer)} is none of the candidates "
            f"{shown(choices)}"
        )
    start, end = (record["start"], record["end"]) if task in _PARTS else (None, None)
    return Item(
        id=id,
        question=record["question"],
        media=(Medium("video", folder / record["video"], start, end),),
        choices=tuple(map(str, choices)),
        truth=LETTERS[choices.index(answer)],
        category=task,
        group=f"{folder.name}/{record['video']}",
    )


def _stem(task: str) -> str:
    return task.lower().replace(" ", "_").replace("-", "_")


def _is_right(answer: str, truth: str) -> bool:
    word, option = answer.lower().split(" ")[0], f"({truth.lower()})"
    return word.replace(".", "") in option or option in word


def _by_task(judged: Sequence[Judged], values: Sequence[float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for one, value in zip(judged, values, strict=True):
        found.setdefault(one.item.category, []).append(value)
    return found
