"""OwlEval as training data: its questions with one system's answers, in the original's JSON Lines.

    python tests/data/owleval_lines.py OWLEVAL OUTPUT.jsonl

OWLEVAL is OwlEval as published: questions.jsonl, answer/*.jsonl, cases/ with the pictures.
Questions about one picture that follow each other become one conversation of several turns. Paths
are relative to cases/: --config.data.media_root=OWLEVAL/cases.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

from owl_jax.text.turns import SYSTEM

ANSWERS = "mPLUG_Owl_7b_answer.jsonl"


def write_lines(directory: Path, output: Path) -> int:
    """Writes the conversations; returns their number."""
    questions, answers = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (directory / "questions.jsonl", directory / "answer" / ANSWERS)
    )
    answered = {item["question_id"]: item["answer"] for item in answers}
    lines = []
    for image, asked in itertools.groupby(questions, key=lambda item: item["image"]):
        turns = [
            f"Human: {item['question']}\nAI: {answered[item['question_id']]}" for item in asked
        ]
        text = "\n".join([SYSTEM, "Human: <image>", *turns])
        lines.append(json.dumps({"text": text, "image": [image], "task_type": "owleval_sft"}))
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


if __name__ == "__main__":
    print(write_lines(Path(sys.argv[1]), Path(sys.argv[2])), "conversations")
