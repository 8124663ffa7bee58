"""The history of a chat: its messages and media so far, and the media of the next question."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from owl_jax.errors import BadData, UserError
from owl_jax.inference.api import Owl
from owl_jax.media.image import IMAGE_FORMATS, load_image
from owl_jax.media.video import FRAME_SUFFIXES, load_video
from owl_jax.text.conversation import count_media

# A line that ends like this is hardly ever a question.
MEDIA_NAMES = (*FRAME_SUFFIXES, ".avi", ".mkv", ".mov", ".mp4", ".webm")


class Conversation:
    """The messages and media so far, and the media that wait for the next question.

    sampling: keyword arguments of `Owl.chat`.
    """

    def __init__(self, owl: Owl, **sampling: Any):
        self._owl = owl
        self._sampling = sampling
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._messages: list[dict[str, Any]] = []
        self._images: list[Any] = []
        self._videos: list[Any] = []
        # How many images and videos there were before each command that added some for the next
        # question, and before the media of each answered question.
        self._shown: list[tuple[int, int]] = []
        self._answered: list[tuple[int, int]] = []

    def show_images(self, paths: Iterable[str]) -> None:
        """Adds pictures to the next question, all or none.

        Raises UserError for one that cannot be read, and for a model that takes text only.
        """
        self._check_vision()
        self._show([_load_picture(path) for path in paths], [])

    def show_videos(self, paths: Sequence[str]) -> None:
        """Adds videos to the next question, all or none.

        Raises UserError for one that cannot be read, and for a model that takes text only.
        """
        self._check_vision()
        for path in paths:
            if is_still_picture(path):
                raise UserError(f"{path} is a picture; /image shows it (--image at the start)")
            load_video(path, 1, self._owl.config.image_size)
        self._show([], paths)

    def undo(self) -> str:
        """Removes the media that the last command added, or else the last question with its media.

        Returns a message that says what was removed. Raises UserError if there is nothing.
        """
        if self._shown:
            images, videos = self._cut_media(*self._shown.pop())
            names = [(images, "picture"), (videos, "video")]
            taken = [f"{n} {noun}{'s' * (n > 1)}" for n, noun in names if n]
            return f"{' and '.join(taken)} removed"
        if not self._answered:
            raise UserError("there is nothing to undo")
        self._cut_media(*self._answered.pop())
        del self._messages[-2:]
        return "the last question and its answer are removed"

    def ask(self, question: str) -> Generator[str]:
        """Yields the answer piece by piece.

        The question and its answer join the history when the answer is complete. If the answer is
        interrupted, or not read to its end, they join it with the text so far, if there is any.
        Raises UserError as `Owl.chat` does, before the first piece.
        """
        before = self._shown[0] if self._shown else (len(self._images), len(self._videos))
        media: list[dict[str, str]] = []
        if not any(count_media(question)):
            media = self._pending(*before)
        message = {"role": "user", "content": [*media, {"type": "text", "text": question}]}
        messages = [*self._messages, message]
        pieces = self._owl.chat(messages, self._images, self._videos, stream=True, **self._sampling)
        answer = ""
        try:
            for piece in pieces:
                answer += piece
                yield piece
        except (KeyboardInterrupt, GeneratorExit):
            if answer:
                self._keep(messages, answer, before)
            raise
        self._keep(messages, answer, before)

    def _keep(self, messages: list[dict[str, Any]], answer: str, before: tuple[int, int]) -> None:
        # A template may write the space before an answer itself; the model's must not double it.
        self._messages = [*messages, {"role": "assistant", "content": answer.strip()}]
        self._answered.append(before)
        self._shown = []

    def _check_vision(self) -> None:
        if self._owl.config.text_only:
            raise UserError("this language model has no vision encoder: it takes text only")

    def _show(self, images: Iterable[Any], videos: Iterable[Any]) -> None:
        self._shown.append((len(self._images), len(self._videos)))
        self._images += images
        self._videos += videos

    def _pending(self, images: int, videos: int) -> list[dict[str, str]]:
        """Message parts for all media after the first `images` and `videos`, in their order."""
        parts = []
        counts = [*self._shown[1:], (len(self._images), len(self._videos))] if self._shown else []
        for more_images, more_videos in counts:
            parts += [{"type": "image"}] * (more_images - images)
            parts += [{"type": "video"}] * (more_videos - videos)
            images, videos = more_images, more_videos
        return parts

    def _cut_media(self, images: int, videos: int) -> tuple[int, int]:
        """Keeps only the first `images` and `videos`; returns how many were removed."""
        taken = len(self._images) - images, len(self._videos) - videos
        del self._images[images:], self._videos[videos:]
        return taken


def _load_picture(path: str) -> Image.Image:
    try:
        return load_image(path)
    except BadData as error:
        if Path(path).is_dir():
            raise UserError(f"{path} is a folder; /video shows a folder of frames") from error
        if error.reason == "not a picture" and path.lower().endswith(MEDIA_NAMES):
            raise UserError(f"{error}; /video shows a video") from error
        raise


def is_still_picture(path: str) -> bool:
    """Whether a file is a picture without animation; False if it cannot be read."""
    if not Path(path).is_file():
        return False
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            # The other pictures in an MPO are previews, or the second view of a stereo camera.
            return image.format == "MPO" or not getattr(image, "is_animated", False)
    # Pillow's parsers raise any exception on damaged files; the loader reports it later.
    except Exception:
        return False
