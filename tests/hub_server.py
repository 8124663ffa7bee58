"""A small hub on 127.0.0.1: as much of Hugging Face's HTTP API as huggingface_hub needs.

Repositories are in memory. Large files are redirected to another origin, the CDN, which must not
see the token. A fault happens to the next download of a file, once: `cut` closes the connection in
the middle, `corrupt` changes a byte, `short` leaves out the end and says so.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"
# Regular files of Git; all others are in the large file storage.
_REGULAR = (".json", ".jsonl", ".md", ".jinja", ".txt", ".csv", ".py", "SHA256SUMS")
_PAGE = 50  # files of one answer of a listing


def is_regular(path: str) -> bool:
    """Whether a file is stored as Git stores it."""
    return path.endswith(_REGULAR)


def git_hash(data: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    """commits: {hash: {path: bytes}}. refs: {branch or tag: hash}. access: "public", "private" (a
    token is needed) or "gated" (none suffices)."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    access: str = "public"

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Makes `files` the newest content of a branch; returns the commit."""
        text = f"{branch} {len(self.commits)} {sorted((p, git_hash(d)) for p, d in files.items())}"
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.refs[branch] = commit
        return commit


@dataclass(frozen=True)
class Request:
    """What was asked. path: without the query. range: the header, or ""."""

    method: str
    path: str
    range: str


class Hub:
    """The repositories, by kind ("models" or "datasets") and name, and the requests so far."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.stored: dict[str, bytes] = {}  # by SHA-256
        self.faults: dict[str, str] = {}
        self.requests: list[Request] = []
        self.messages: list[str] = []
        self.url = ""
        self.lock = threading.Lock()

    def add(
        self,
        name: str,
        files: Mapping[str, bytes] | Path,
        kind: str = "models",
        access: str = "public",
    ) -> str:
        """Adds a commit to a repository, which may be new; returns it."""
        if isinstance(files, Path):
            paths = [path for path in files.rglob("*") if path.is_file()]
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        repository = self.repositories.setdefault((kind, name), Repository(access=access))
        return repository.commit(files)

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """The variables of a process that uses this hub, with a cache in `home`."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return {
            **{name: value for name, value in ours.items() if "proxy" not in name.lower()},
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            # Another protocol of the hub, with servers of its own.
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **more,
        }

    def downloads(self) -> list[str]:
        """The paths whose content was sent, in order."""
        return [
            one.path for one in self.requests if one.method == "GET" and one.path[:5] != "/api/"
        ]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that serves in threads."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = ""):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    do_GET = do_POST = do_PUT = do_HEAD

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else self._chunks()
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.requests.append(Request(self.command, path, self.headers.get("Range") or ""))
        try:
            for pattern, method in _ROUTES:
                if found := re.fullmatch(pattern, path):
                    return getattr(self, method)(**found.groupdict())
            raise _Refused(404, message=f"the tests' hub has no {path}")
        except _Refused as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            given = {name: value for name, value in headers.items() if value}
            self._send(refusal.status, json.dumps({"error": refusal.message}).encode(), given)

    def _chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _send_json(self, value: Any, headers: Mapping[str, str] = {}) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})

    @property
    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, kind: str, repo: str) -> Repository:
        if self.headers.get("Authorization") and not self._has_token:
            raise _Refused(401, message="Invalid credentials in Authorization header")
        found = self.hub.repositories.get((kind, repo))
        if found is None or (found.access == "private" and not self._has_token):
            # Strangers are not told which names exist.
            raise _Refused(404 if self._has_token else 401, "RepoNotFound", "Repository not found")
        if found.access == "gated":
            raise _Refused(403, "GatedRepo", "Access is restricted")
        return found

    def _commit(self, kind: str, repo: str, revision: str | None) -> tuple[str, dict[str, bytes]]:
        repository = self._repository(kind, repo)
        commit = repository.refs.get(revision or "main", revision)
        if commit not in repository.commits:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    def info(self, kind: str, repo: str, revision: str | None) -> None:
        commit, files = self._commit(kind, repo, revision)
        siblings = [{"rfilename": path} for path in files]
        self._send_json({"id": repo, "sha": commit, "siblings": siblings, "private": False})

    def tree(self, kind: str, repo: str, revision: str) -> None:
        _, files = self._commit(kind, repo, revision)
        found = re.search(r"[?&]cursor=(\d+)", self.path)
        start = int(found[1]) if found else 0
        entries = []
        for path in sorted(files)[start : start + _PAGE]:
            data = files[path]
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
            entry["oid"] = git_hash(data)
            if not is_regular(path):
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 130}
            entries.append(entry)
        headers = {}
        if start + _PAGE < len(files):
            query = f"recursive=true&cursor={start + _PAGE}"
            address = f"{self.hub.url}/api/{kind}/{repo}/tree/{revision}?{query}"
            headers["Link"] = f'<{address}>; rel="next"'
        self._send_json(entries, headers)

    def resolve(self, kind: str | None, repo: str, revision: str, path: str) -> None:
        commit, files = self._commit((kind or "models/").rstrip("/"), repo, revision)
        if path not in files:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        data = files[path]
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if is_regular(path):
            return self._send_content(path, data, {**headers, "ETag": f'"{git_hash(data)}"'})
        sha256 = hashlib.sha256(data).hexdigest()
        self.hub.stored[sha256] = data
        cdn = self.hub.url.replace("127.0.0.1", "localhost")
        linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
        return self._send(
            302, b"", {**headers, **linked, "Location": f"{cdn}/cdn/{sha256}/{path}?signed=yes"}
        )

    def cdn(self, sha256: str, path: str) -> None:
        if self.headers.get("Authorization"):
            raise _Refused(400, message="the CDN got the token")
        self._send_content(path, self.hub.stored[sha256], {"ETag": '"of the CDN"'})

    def _send_content(self, path: str, data: bytes, headers: Mapping[str, str]) -> None:
        total, start, status = len(data), 0, 200
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start, status = int(found[1]), 206
            headers = {**headers, "Content-Range": f"bytes {start}-{total - 1}/{total}"}
        rest = data[start:]
        fault = self.hub.faults.pop(path, "") if self.command == "GET" else ""
        if fault == "corrupt":
            rest = rest[:-1] + bytes([rest[-1] ^ 1])
        elif fault == "short":
            rest = rest[:-1]
        length = {"Content-Length": str(len(rest))}
        if fault == "cut":
            self._send(status, rest[: len(rest) // 2], {**headers, **length})
            self.wfile.flush()
            self.close_connection = True
            return None
        return self._send(status, rest, {**headers, **length})

    def create(self) -> None:
        self._check_may_write()
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if ("models", name) in self.hub.repositories:
            taken = {
                "error": "You already created this model repo",
                "url": f"{self.hub.url}/{name}",
            }
            return self._send(409, json.dumps(taken).encode())
        access = "private" if asked.get("private") or asked.get("visibility") == "private" else ""
        self.hub.repositories["models", name] = Repository(access=access or "public")
        self.hub.repositories["models", name].commit({".gitattributes": b""})
        return self._send_json({"url": f"{self.hub.url}/{name}"})

    def _check_may_write(self) -> None:
        if not self._has_token:
            raise _Refused(401, message="Invalid username or password.")

    def may_write(self, repo: str) -> None:
        self._check_may_write()
        self._repository("models", repo)
        self._send_json({})

    def validate(self) -> None:
        self._send_json({"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        self._check_may_write()
        self._commit("models", repo, revision)
        asked = json.loads(self.body)["files"]
        modes = {one["path"]: "regular" if is_regular(one["path"]) else "lfs" for one in asked}
        answers = [
            {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}
            for path, mode in modes.items()
        ]
        self._send_json({"files": answers})

    def batch(self, repo: str) -> None:
        self._check_may_write()
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}}
            for one in json.loads(self.body)["objects"]
        ]
        self._send_json({"transfer": "basic", "objects": objects})

    def store(self, sha256: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise _Refused(400, message="another content")
        self.hub.stored[sha256] = self.body
        self._send(200, b"")

    def commit(self, repo: str, revision: str) -> None:
        self._check_may_write()
        _, former = self._commit("models", repo, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        files = dict(former)
        for line in lines:
            if line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
        commit = self.hub.repositories["models", repo].commit(files, revision)
        address = f"{self.hub.url}/{repo}/commit/{commit}"
        self._send_json({"success": True, "commitOid": commit, "commitUrl": address})


_REPO = r"(?P<repo>[^/]+/[^/]+?)"
_ROUTES = (
    (r"/api/repos/create", "create"),
    (r"/api/validate-yaml", "validate"),
    (rf"/api/models/{_REPO}/auth-check/write", "may_write"),
    (rf"/api/models/{_REPO}/preupload/(?P<revision>.+)", "preupload"),
    (rf"/api/models/{_REPO}/commit/(?P<revision>.+)", "commit"),
    (rf"/api/(?P<kind>models|datasets)/{_REPO}/tree/(?P<revision>[^/]+)", "tree"),
    (rf"/api/(?P<kind>models|datasets)/{_REPO}(?:/revision/(?P<revision>.+))?", "info"),
    (rf"/{_REPO}\.git/info/lfs/objects/batch", "batch"),
    (r"/lfs/(?P<sha256>\w+)", "store"),
    (r"/cdn/(?P<sha256>\w+)/(?P<path>.+)", "cdn"),
    (rf"/(?P<kind>datasets/)?{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
)
