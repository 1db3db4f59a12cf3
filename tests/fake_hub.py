"""A model hub on loopback: serves one folder as one repository and remembers what was asked."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True, slots=True)
class Request:
    """One request that the hub saw."""

    method: str
    path: str
    authorization: str | None
    user_agent: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: a status, a body and headers."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class FakeHub:
    """The hub's state; a test may change it between two calls.

    Attributes:
        folder: What the repository holds, at every revision.
        repo: Its id.
        url: The endpoint to pass to huggingface_hub.
        revisions: Names that resolve to `COMMIT`, besides the commit itself.
        token: Needed for every request, if set.
        gated: Listing is open, files are not: what the real hub does.
        status: Answered to every request, if set.
        file_status: Answered to every request for a file, if set: a hub that breaks off.
        requests: All requests so far.
    """

    folder: Path
    repo: str
    url: str = ""
    revisions: tuple[str, ...] = ("main",)
    token: str | None = None
    gated: bool = False
    status: int | None = None
    file_status: int | None = None
    requests: list[Request] = field(default_factory=list)

    def fetched(self) -> set[str]:
        """Names of the files whose content was sent."""
        prefix = f"/{self.repo}/resolve/{COMMIT}/"
        got = [request.path for request in self.requests if request.method == "GET"]
        return {path.removeprefix(prefix) for path in got if path.startswith(prefix)}

    def answer(self, request: Request) -> Answer:
        """What the hub says to a request; bodies are dropped for HEAD."""
        if self.status is not None:
            return Answer(self.status)
        if self.token is not None and request.authorization != f"Bearer {self.token}":
            return _unauthorized(request)
        api = f"/api/models/{self.repo}"
        if request.path == api:
            return self._info("main")
        for prefix, reply in (
            (f"{api}/revision/", self._info),
            (f"{api}/tree/", self._tree),
            (f"/{self.repo}/resolve/", self._file),
        ):
            if request.path.startswith(prefix):
                return reply(request.path.removeprefix(prefix))
        return Answer(404, headers={"X-Error-Code": "RepoNotFound"})

    def names(self) -> list[str]:
        """All file names in the repository."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [path.relative_to(self.folder).as_posix() for path in files]

    def _info(self, revision: str) -> Answer:
        siblings = [{"rfilename": name} for name in self.names()]
        return self._at(revision, {"id": self.repo, "sha": COMMIT, "siblings": siblings})

    def _tree(self, revision: str) -> Answer:
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": _digest(content)}
            for name in self.names()
            for content in [(self.folder / name).read_bytes()]
        ]
        return self._at(revision, entries)

    def _file(self, rest: str) -> Answer:
        revision, _, name = rest.partition("/")
        if not self._known(revision):
            return Answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        if self.file_status is not None:
            return Answer(self.file_status)
        if self.gated:
            return Answer(403, headers={"X-Error-Code": "GatedRepo"})
        path = self.folder / name
        if not path.is_file():
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            return Answer(404, headers=headers)
        content = path.read_bytes()
        return Answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{_digest(content)}"'})

    def _at(self, revision: str, value: Any) -> Answer:
        if not self._known(revision):
            return Answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        return Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _known(self, revision: str) -> bool:
        return revision in (*self.revisions, COMMIT)


@contextmanager
def fake_hub(folder: Path, repo: str) -> Iterator[FakeHub]:
    """Serve a folder as a repository until the block ends.

    Args:
        folder: What the repository holds.
        repo: Its id, `owner/name`.

    Yields:
        The hub, its `url` set.
    """
    hub = FakeHub(folder, repo)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(hub, body=True)

        def do_HEAD(self) -> None:
            self._reply(hub, body=False)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the hub keeps its own log."""

        def _reply(self, hub: FakeHub, *, body: bool) -> None:
            request = Request(
                method=self.command,
                path=unquote(urlsplit(self.path).path),
                authorization=self.headers.get("Authorization"),
                user_agent=self.headers.get("User-Agent", ""),
            )
            hub.requests.append(request)
            answer = hub.answer(request)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if body:
                self.wfile.write(answer.body)

    return Handler


def _unauthorized(request: Request) -> Answer:
    # The real hub hides from strangers whether a repository exists, and names a bad token.
    if request.authorization is None:
        return Answer(401, headers={"X-Error-Code": "RepoNotFound"})
    return Answer(401, headers={"X-Error-Message": "Invalid credentials in Authorization header"})


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
