"""Where records come from: random access, lazy, picklable.

A record is a dict: "text" in the original's format, "images" and "videos" (paths or pictures, in
reading order), "task_type", and "where" (file:line) for messages. The embedded data set is in
data/synthetic.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from owl_jax.errors import UserError
from owl_jax.processing.conversation import IMAGE_TOKEN, SYSTEM, VIDEO_TOKEN

Record = dict[str, Any]


@dataclass
class JsonLinesSource:
    """The original's training file: one {"text", "image": [...], "task_type"} a line.

    A line {"question", "answer", "image"}, as OwlEval's answer files have it, is a conversation of
    one turn. "image" and "video" hold a path or a list of paths, relative to `media_root`. The file
    is indexed once by line; a line is read when it is asked for. Raises UserError for a file that
    is missing or empty, and on access for a line that is not such an object.
    """

    path: Path
    media_root: Path
    _starts: np.ndarray = field(init=False, repr=False)
    _lines: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.path, self.media_root = Path(self.path), Path(self.media_root)
        try:
            with self.path.open("rb") as file:
                starts, lines, position = [], [], 0
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        starts.append(position)
                        lines.append(number)
                    position += len(line)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None
        if not starts:
            raise UserError(f"{self.path}: empty; expected one JSON object a line")
        self._starts, self._lines = np.asarray(starts), np.asarray(lines)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Record:
        where = f"{self.path}:{self._lines[index]}"
        try:
            with self.path.open("rb") as file:
                file.seek(self._starts[index])
                line = file.readline()
        except OSError as error:
            raise UserError(f"{where}: cannot be read ({error.strerror})") from None
        try:
            values = json.loads(line)
            images = self._paths(values.get("image"), where)
            videos = self._paths(values.get("video"), where)
            media = len(images), len(videos)
            text = values["text"] if "text" in values else _one_turn(values, *media)
            if not isinstance(text, str):
                raise TypeError
            text.encode()  # JSON can spell half a character, which no tokenizer takes
        except (AttributeError, ValueError, KeyError, TypeError, RecursionError):
            raise UserError(
                f'{where}: expected a JSON object with a "text" string, or with "question" and '
                '"answer"'
            ) from None
        return {
            "text": text,
            "images": images,
            "videos": videos,
            "task_type": values.get("task_type", ""),
            "where": where,
        }

    def _paths(self, value: Any, where: str) -> list[Path]:
        values = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise UserError(f'{where}: "image" and "video" must be a path or a list of paths')
        return [self.media_root / item for item in values]


def _one_turn(values: Record, images: int, videos: int) -> str:
    """Question and answer in the original's format, below pictures and videos."""
    marks = [f"Human: {IMAGE_TOKEN}"] * images + [f"Human: {VIDEO_TOKEN}"] * videos
    question, answer = values["question"].strip(), values["answer"].strip()
    return "\n".join([SYSTEM, *marks, f"Human: {question}", f"AI: {answer}"])
