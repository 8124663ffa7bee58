"""Judges: any server with OpenAI's chat completions, or replies that were recorded.

A judge's replies are kept in a JSON Lines file of their own, keyed by everything that the judge was
sent and by who it is. So a run that is killed asks nothing twice, and a changed prompt asks again.
Failures are never kept: the next run asks again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import httpx

from owl_jax.errors import UserError, one_line, printable, shown
from owl_jax.evaluation.benchmark import Ask, Benchmark, Item, JudgeCall
from owl_jax.evaluation.data_files import read_json_lines, read_text

KEY_VARIABLE = "JUDGE_API_KEY"

# What a request has beside model and messages.
FIELDS: Mapping[str, Any] = {"temperature": 0, "max_tokens": 1024}

_MOST_FAILED = 0.02  # share of the questions of a run
_LONGEST_WAIT = 60.0  # seconds between two attempts
# A later attempt may succeed: the server is busy, restarts, or does not answer in time.
_TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
# No other question will fare better: wrong key, path or model.
_HOPELESS = frozenset({401, 402, 403, 404})
_REPEATED = 50  # questions of the sample that is asked twice


@dataclass(frozen=True)
class Server:
    """Where a judge is and how it is asked.

    url: up to and with /v1. model: the name that the server knows it by.
    key: sent as a bearer token; empty: none.
    fields: of the request, such as temperature; part of what replies are keyed by.
    timeout: seconds for one attempt. attempts: at one question, with growing pauses of about
      `pause`, 2 * pause, ... seconds, or as long as the server says.
    concurrency: questions at once.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    fields: Mapping[str, Any] = field(default_factory=lambda: dict(FIELDS))
    timeout: float = 120.0
    attempts: int = 5
    pause: float = 1.0
    concurrency: int = 8

    @property
    def name(self) -> str:
        """For results and messages."""
        return f"{self.model} at {self.url}"


@dataclass(frozen=True)
class Agreement:
    """A judge asked the same questions twice.

    items: of the sample. equal_scores: share whose verdicts have the same score; equal_replies:
      share of the questions with the same text as a reply.
    """

    items: int
    equal_scores: float
    equal_replies: float


class Judge:
    """Asks a server, and keeps its replies. Use as a context manager.

    path: the file of replies; made if it is not there. One process at a time writes it.

    Raises UserError at the start if the server cannot be reached or does not accept the key, or
    the file is not one of replies.
    """

    def __init__(self, server: Server, path: Path) -> None:
        self.server = server
        self.name = server.name
        self._stopped = threading.Event()
        self._asked: dict[str, None] = {}  # ids of items, in order
        self._total = self._failed = 0
        self._lock = threading.Lock()
        self._client = httpx.Client(
            timeout=httpx.Timeout(server.timeout, connect=min(server.timeout, 10.0)),
            headers={"Authorization": f"Bearer {server.key}"} if server.key else {},
            limits=httpx.Limits(max_connections=server.concurrency),
        )
        try:
            self._check()
            self._replies = _read_replies(path)
            self._file = _open_to_append(path)
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()
        self._file.close()

    def ask(self, calls: Sequence[JudgeCall]) -> list[str | None]:
        """The replies; None for a call that failed. This is the `Ask` of a benchmark.

        Raises UserError if more than 2 % of the run's calls failed, or no further one can succeed.
        """
        return self._ask(calls, 0)

    def agreement(
        self, benchmark: Benchmark, items: Sequence[Item], answers: Mapping[str, str]
    ) -> Agreement | None:
        """Asks again about a sample of at most 50 of the items that it was asked about.

        None if the benchmark has not asked it anything. The second replies are kept too.
        """
        asked = [item for item in items if item.id in self._asked]
        sample = sorted(asked, key=lambda item: _hash(item.id))[:_REPEATED]
        if not sample:
            return None
        pairs: list[tuple[str, str]] = []

        def twice(calls: Sequence[JudgeCall]) -> list[str | None]:
            first, second = self._ask(calls, 0), self._ask(calls, 1)
            pairs.extend(
                (one, two)
                for one, two in zip(first, second, strict=True)
                if one is not None and two is not None
            )
            return second

        scores = [verdict.score for verdict in benchmark.judge(sample, answers, self.ask)]
        again = [verdict.score for verdict in benchmark.judge(sample, answers, twice)]
        both = [
            (one, two)
            for one, two in zip(scores, again, strict=True)
            if one is not None and two is not None
        ]
        return Agreement(len(both), _share_equal(both), _share_equal(pairs))

    def _ask(self, calls: Sequence[JudgeCall], repeat: int) -> list[str | None]:
        self._asked.update(dict.fromkeys(call.id for call in calls))
        self._total += len(calls)
        keys = [self._key(call, repeat) for call in calls]
        new = {key: call for key, call in zip(keys, calls, strict=True) if key not in self._replies}
        with ThreadPoolExecutor(self.server.concurrency) as pool:
            waiting = [pool.submit(self._fetch, key, call, repeat) for key, call in new.items()]
            try:
                for one in waiting:
                    one.result()
            except BaseException:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [self._replies.get(key) for key in keys]

    def _fetch(self, key: str, call: JudgeCall, repeat: int) -> None:
        """Asks, and keeps the reply."""
        try:
            reply = self._post(call)
        except _Failed as error:
            self._count_failure(call, str(error))
            return
        record = {
            "key": key,
            "judge": self.server.name,
            "id": call.id,
            "part": call.part,
            "attempt": call.attempt,
            "repeat": repeat,
            "prompt": call.prompt,
            "reply": reply,
        }
        with self._lock:
            self._replies[key] = reply
            line = json.dumps(record, ensure_ascii=False)
            self._file.write(line.encode("utf-8", "replace") + b"\n")
            self._file.flush()

    def _count_failure(self, call: JudgeCall, reason: str) -> None:
        """Raises UserError if there are too many."""
        with self._lock:
            self._failed += 1
            if self._failed > _MOST_FAILED * self._total:
                raise UserError(
                    f"the judge {self.server.name} failed for {self._failed:,} of "
                    f"{self._total:,} questions, more than {_MOST_FAILED:.0%}; the last was item "
                    f"{shown(call.id)}: {reason}; the same command asks only for those again"
                )

    def _key(self, call: JudgeCall, repeat: int) -> str:
        sent = [self.server.url, self._body(call), call.attempt, repeat]
        return _hash(json.dumps(sent, sort_keys=True))

    def _body(self, call: JudgeCall) -> dict[str, Any]:
        system = [{"role": "system", "content": call.system}] if call.system else []
        body = {
            "model": self.server.model,
            "messages": [*system, {"role": "user", "content": _sendable(call.prompt)}],
            **self.server.fields,
        }
        # Asked again at temperature 0, a judge would give the reply that could not be read.
        if call.attempt and "temperature" in body:
            body["temperature"] = 1
        return body

    def _check(self) -> None:
        """Raises UserError if there is no server or it refuses the key. Models are not looked for:
        some servers do not list all that they have."""
        try:
            response = self._client.get(f"{self.server.url}/models")
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise UserError(
                f"--judge_url={self.server.url}: no judge there ({one_line(error)}); expected the "
                "address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1"
            ) from None
        if response.status_code in (401, 403):
            raise UserError(
                f"the judge at {self.server.url} does not accept the key "
                f"({response.status_code}); put the right one into --judge_key_file, or into the "
                f"environment variable {KEY_VARIABLE}"
            )

    def _post(self, call: JudgeCall) -> str:
        """Raises _Failed after the last attempt, UserError if all questions would fail."""
        reason = ""
        for attempt in range(self.server.attempts):
            wait = self.server.pause * 2**attempt * random.uniform(0.75, 1.25)
            try:
                response = self._client.post(
                    f"{self.server.url}/chat/completions", json=self._body(call)
                )
            except httpx.HTTPError as error:
                reason = f"{type(error).__name__}: {one_line(error)}"
            else:
                if response.status_code == 200:
                    return _content(response)
                reason = f"status {response.status_code}: {_message(response)}"
                if response.status_code in _HOPELESS:
                    raise UserError(f"the judge {self.server.name} refuses: {reason}")
                if response.status_code not in _TRY_AGAIN:
                    break
                wait = max(wait, _seconds(response.headers.get("Retry-After", "")))
            if attempt + 1 == self.server.attempts or self._stopped.wait(min(wait, _LONGEST_WAIT)):
                break
        raise _Failed(reason)


class _Failed(Exception):
    """A question has no reply."""


def make_server(url: str, model: str, key_file: Path | None = None, **settings: Any) -> Server:
    """A Server from what the user gave. Raises UserError.

    key_file: a file with the key; without one, the environment variable JUDGE_API_KEY counts.
    settings: further fields of Server.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(
            f"--judge_url={url}: expected the address of an OpenAI-compatible server, such as "
            "http://127.0.0.1:8000/v1"
        )
    address = url.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    key = os.environ.get(KEY_VARIABLE, "") if key_file is None else read_text(key_file)
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        where = KEY_VARIABLE if key_file is None else f"--judge_key_file={key_file}"
        raise UserError(f"{where} holds no key; expected one line of letters, digits and marks")
    return Server(address, model, key, **settings)


class RecordedJudge:
    """Replies from a file (recorded_replies) in the place of a Judge."""

    def __init__(self, path: Path) -> None:
        self.name = f"replies in {path.name}"
        self.ask = recorded_replies(path)

    def agreement(
        self, benchmark: Benchmark, items: Sequence[Item], answers: Mapping[str, str]
    ) -> None:
        """None: nobody can be asked again."""
        del benchmark, items, answers


def recorded_replies(path: Path) -> Ask:
    """Answers from a file of replies instead of a judge.

    The file is JSON Lines of {"id", PART: reply}, with PART as in JudgeCall.part, mostly "reply".
    {"id", "replies": [...]} has one reply for each attempt. What it does not have is a failure.

    Raises UserError for an unreadable file, and for an id with the same part twice.
    """
    found: dict[tuple[str, str], list[str | None]] = {}
    for record in read_json_lines(path, ("id",)):
        id = str(record.pop("id"))
        for part, given in record.items():
            replies = given if isinstance(given, list) else [given]
            if not all(reply is None or isinstance(reply, str) for reply in replies):
                raise UserError(f"{path}: id {shown(id)}: {part} is no text: {shown(given)}")
            key = (id, "reply" if part == "replies" else part)
            if key in found:
                raise UserError(f"{path} has {part} of id {shown(id)} twice; expected it once")
            found[key] = replies

    def ask(calls: Sequence[JudgeCall]) -> list[str | None]:
        replies = []
        for call in calls:
            given = found.get((call.id, call.part)) or [None]
            # One reply stands for all attempts.
            replies.append(given[min(call.attempt, len(given) - 1)])
        return replies

    return ask


def _content(response: httpx.Response) -> str:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        raise _Failed(f"it sent no chat completion: {shown(response.text)}") from None
    if not isinstance(content, str):
        raise _Failed(f"its reply has no text: {shown(content)}")
    return content


def _message(response: httpx.Response) -> str:
    """What the server says of an error, on one line."""
    try:
        error = response.json()["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, LookupError, TypeError):
        text = response.text
    return printable(" ".join(str(text).split()))[:200]


def _seconds(header: str) -> float:
    """Retry-After; 0 if it is not a number, but a date or nothing."""
    try:
        return float(header)
    except ValueError:
        return 0.0


def _sendable(text: str) -> str:
    """A text without surrogates, which UTF-8 cannot encode: a file of answers may have some."""
    return text.encode("utf-8", "replace").decode()


def _share_equal(pairs: Sequence[tuple[Any, Any]]) -> float:
    return sum(one == two for one, two in pairs) / len(pairs) if pairs else 1.0


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _read_replies(path: Path) -> dict[str, str]:
    """Replies by key. A last line that a kill has cut is dropped from the file."""
    try:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)
        if not whole:
            return {}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    return {
        str(record["key"]): str(record["reply"])
        for record in read_json_lines(path, ("key", "reply"))
    }


def _open_to_append(path: Path) -> BinaryIO:
    try:
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir(parents=True)
        return path.open("ab")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
