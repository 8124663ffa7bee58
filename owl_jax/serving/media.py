"""Takes the pictures and videos out of a request's parts, as bytes, within the limits.

A string is a data URI or a URL of an allowed host; nothing that a client sends is ever a path on
this machine. Sizes are read from headers, before anything is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from owl_jax.media.headers import Stated, stated_size
from owl_jax.serving.data_uri import is_data_uri, read_data_uri
from owl_jax.serving.download import Downloads
from owl_jax.serving.errors import ApiError
from owl_jax.serving.settings import Limits


@dataclass
class Media:
    """Reads the media of one request and counts them.

    pictures, clips: found so far.
    """

    limits: Limits
    downloads: Downloads
    pictures: int = field(default=0, init=False)
    clips: int = field(default=0, init=False)

    def picture(self, url: str, param: str) -> bytes:
        """The file of a picture. Raises ApiError if it is refused; it may still be damaged."""
        self.pictures += 1
        if self.pictures > self.limits.images:
            raise _too_many(param, "pictures", self.limits.images)
        return self._picture(url, param)

    def clip(self, source: str | list[str], param: str) -> bytes | list[bytes]:
        """The file of a video, or the files of its frames."""
        self.clips += 1
        if self.clips > self.limits.videos:
            raise _too_many(param, "videos", self.limits.videos)
        if isinstance(source, list):
            self._check_frames(len(source), param)
            return [self._picture(frame, f"{param}[{index}]") for index, frame in enumerate(source)]
        data = self._read(source, param)
        if isinstance(data, list):
            self._check_frames(len(data), param)
            for frame in data:
                self._check(stated_size(frame), param)
        else:
            self._check(stated_size(data), param)
        return data

    def _picture(self, url: str, param: str) -> bytes:
        data = self._read(url, param)
        if isinstance(data, list):
            raise ApiError(400, f"{param} is a video; expected a picture", param=param)
        self._check(stated_size(data), param)
        return data

    def _read(self, url: str, param: str) -> bytes | list[bytes]:
        return read_data_uri(url, param) if is_data_uri(url) else self.downloads.fetch(url, param)

    def _check(self, stated: Stated | None, param: str) -> None:
        """Refuses too many pixels or frames; a file without a size is refused when decoded."""
        if stated is None:
            return
        width, height, frames = stated
        if width * height > self.limits.pixels:
            raise ApiError(
                400,
                f"{param} has {width} x {height} pixels; expected at most {self.limits.pixels:,}",
                param=param,
                code="image_too_large",
            )
        if frames > self.limits.video_frames:
            raise _too_many(param, "frames", self.limits.video_frames)

    def _check_frames(self, count: int, param: str) -> None:
        if not count:
            raise ApiError(400, f"{param} has no frames", param=param, code="invalid_media")
        if count > self.limits.frames:
            raise _too_many(param, "frames", self.limits.frames)


def _too_many(param: str, what: str, most: int) -> ApiError:
    return ApiError(
        400, f"{param}: too many {what}; expected at most {most:,}", param=param, code="too_many"
    )
