"""Suffixes of image and video files, in lower case and without the dot."""

from owl_jax.media.video import FRAME_SUFFIXES

IMAGE_SUFFIXES = tuple(suffix.removeprefix(".") for suffix in FRAME_SUFFIXES)
VIDEO_SUFFIXES = ("avi", "flv", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ogv", "webm", "wmv")
# Pictures, videos and sounds that are not read. A record with no other media is refused for them.
UNREAD_SUFFIXES = (
    *("heic", "heif", "hif", "jxl", "svg", "psd", "dng", "cr2", "cr3", "nef", "arw", "raf", "exr"),
    *("3gp", "3g2", "m2ts", "mts", "vob", "asf", "rmvb"),
    *("aac", "flac", "m4a", "mp3", "ogg", "opus", "wav"),
)
