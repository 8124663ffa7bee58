"""What the operator of a server decides: limits, keys, hosts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What one request may ask for. Each is a flag of owl_jax.serve, and docs/serving.md tells the
    status of a request beyond it.

    body_bytes: of one body. bodies_bytes: of all bodies that are being read or prepared.
    body_seconds: until a body is complete.
    pixels: of a picture, or of a frame of a video. frames: in a video that is sent as a list of
      pictures. video_frames: in a video file.
    choices: `n` times the number of prompts. new_tokens: of an answer; None: what fits.
    waiting: requests that are being prepared; the engine bounds its own queue.
    request_seconds: until the answer is complete; None: no limit.
    """

    body_bytes: int = 32 << 20
    bodies_bytes: int = 256 << 20
    body_seconds: float = 30.0
    images: int = 16
    videos: int = 4
    pixels: int = 50_000_000
    frames: int = 256
    video_frames: int = 36_000
    choices: int = 8
    new_tokens: int | None = None
    waiting: int = 256
    request_seconds: float | None = None


@dataclass(frozen=True)
class Settings:
    """How a server behaves beyond its limits.

    temperature: of requests that name none; 1 as in OpenAI's API.
    threads: that read bodies, decode media and tokenize.
    ping_seconds: between two signs of life in a stream.
    stall_seconds: without a result of the device, after which it is taken to hang.
    metrics_prefix: of the names in /metrics.
    media_hosts: from which pictures and videos are fetched; others are refused.
    download_bytes, download_seconds: of one medium from such a host.
    votes_file: of JSON Lines, to which votes are appended; None: votes are refused.
    votes_bytes: of that file, at most.
    """

    limits: Limits = Limits()
    temperature: float = 1.0
    threads: int = 4
    ping_seconds: float = 15.0
    drain_seconds: float = 30.0
    stall_seconds: float = 120.0
    metrics_prefix: str = "owl"
    media_hosts: tuple[str, ...] = ()
    download_bytes: int = 32 << 20
    download_seconds: float = 10.0
    votes_file: str | None = None
    votes_bytes: int = 1 << 30
