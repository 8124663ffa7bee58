"""Suffixes of files that are pictures or videos, in lower case and without the dot."""

from owl_jax.media.video import FRAME_SUFFIXES

IMAGE_SUFFIXES = tuple(suffix.removeprefix(".") for suffix in FRAME_SUFFIXES)
VIDEO_SUFFIXES = ("avi", "flv", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ogv", "webm", "wmv")
