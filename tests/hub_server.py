"""A small model hub on 127.0.0.1 that speaks the Hugging Face Hub's API and misbehaves on order.

It serves folders from disk as they are, takes uploads, records requests, and answers as the real
one does: 401 for an unknown model without a token and 404 with one, a redirect to another host for
large files, byte ranges, commit and ETag headers.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

TOKEN = "hf_local_test_token"
"""The access token that may do everything."""

LARGE = 4096
"""Files of this many bytes or more are kept and moved as the Hub does with large files."""


@dataclasses.dataclass
class Fault:
    """What goes wrong with the requests whose "METHOD /path" contains `where`.

    Attributes:
        where: part of "METHOD /path".
        status: answer with this status instead.
        code: the X-Error-Code header of that answer, such as "GatedRepo".
        body: answer 200 with this text instead.
        cut: send only this share of the body, then close the connection.
        shorten: announce and send so many bytes less than the file has.
        spoil: send other bytes, as many as there should be.
        times: strike so many requests; None for all.
    """

    where: str
    status: int | None = None
    code: str | None = None
    body: str | None = None
    cut: float | None = None
    shorten: int = 0
    spoil: bool = False
    times: int | None = None

    def strikes(self, request: str) -> bool:
        if self.where not in request or self.times == 0:
            return False
        self.times = None if self.times is None else self.times - 1
        return True


@dataclasses.dataclass
class Model:
    """One served model: branches point to commits, commits to files."""

    private: bool = False
    gated: bool = False
    branches: dict[str, str] = dataclasses.field(default_factory=dict)
    commits: dict[str, dict[str, Path]] = dataclasses.field(default_factory=dict)

    def commit(self, files: dict[str, Path], branch: str) -> str:
        content = [[name, _sha256(path)] for name, path in sorted(files.items())]
        commit = hashlib.sha1(json.dumps([branch, content]).encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def resolve(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


class HubServer:
    """The running hub; a context manager.

    Attributes:
        requests: every request as "METHOD /path", in order.
        tokens: the Authorization header of each request, or "".
        faults: what goes wrong; the first that matches a request strikes.
        watch: called with every request before it is answered.
    """

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self.models: dict[str, Model] = {}
        self.requests: list[str] = []
        self.tokens: list[str] = []
        self.faults: list[Fault] = []
        self.watch: Callable[[str], object] | None = None
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        self.file_host = f"http://localhost:{port}"  # another host for large files, as at the Hub

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the hub down: from now on connections are refused."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def add(
        self,
        repo_id: str,
        folder: Path,
        *,
        branch: str = "main",
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Serve a folder as a model, or as a new commit of it; return the commit hash."""
        paths = [path for path in folder.rglob("*") if path.is_file()]
        model = self.models.setdefault(repo_id, Model(private=private, gated=gated))
        return model.commit({path.relative_to(folder).as_posix(): path for path in paths}, branch)

    def files(self, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        """Return what a branch holds now, for assertions after an upload."""
        model = self.models[repo_id]
        files = model.commits[model.branches[branch]]
        return {name: path.read_bytes() for name, path in sorted(files.items())}

    def fail(self, where: str, **what: Any) -> None:
        """Add a `Fault`."""
        self.faults.append(Fault(where, **what))

    def reset(self) -> None:
        """Work well again, and forget what was asked."""
        self.faults.clear()
        self.requests.clear()
        self.tokens.clear()

    def blob(self, digest: str) -> Path | None:
        """Return the file with this hash, served or uploaded."""
        served = (p for m in self.models.values() for c in m.commits.values() for p in c.values())
        uploaded = [self.storage / digest] if (self.storage / digest).is_file() else []
        return next((path for path in (*uploaded, *served) if _sha256(path) == digest), None)

    def store(self, content: bytes) -> Path:
        """Keep uploaded bytes under their hash."""
        self.storage.mkdir(parents=True, exist_ok=True)
        path = self.storage / hashlib.sha256(content).hexdigest()
        path.write_bytes(content)
        return path


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: HubServer


class _RefusedError(Exception):
    """Ends the handling of a request with an error status."""

    def __init__(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        super().__init__(f"{status} {code} {message}")
        self.status = status
        named = {"X-Error-Code": code, "X-Error-Message": message, **headers}
        self.headers = {name: value for name, value in named.items() if value}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    fault: Fault | None
    content: bytes

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def handle_request(self) -> None:
        hub, path = self.server.hub, urlsplit(self.path).path
        request = f"{self.command} {unquote(path)}"
        hub.requests.append(request)
        if hub.watch is not None:
            hub.watch(request)
        hub.tokens.append(self.headers.get("Authorization", ""))
        self.content = self._read_content()
        self.fault = next((fault for fault in hub.faults if fault.strikes(request)), None)
        try:
            self._refuse_if_ordered()
            self._route(path)
        except _RefusedError as refusal:
            self._send(refusal.status, b"", refusal.headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def _read_content(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _refuse_if_ordered(self) -> None:
        if self.fault and self.fault.status:
            raise _RefusedError(self.fault.status, self.fault.code or "")
        if self.headers.get("Authorization", f"Bearer {TOKEN}") != f"Bearer {TOKEN}":
            raise _RefusedError(401, "", "Invalid credentials in Authorization header")

    def _route(self, path: str) -> None:
        if self.fault and self.fault.body is not None:
            self._send(200, self.fault.body.encode(), {"Content-Type": "text/html"})
            return
        for method, pattern, handler in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                parts = {name: unquote(part) for name, part in match.groupdict().items() if part}
                handler(self, **parts)
                return
        raise _RefusedError(404, "", f"no route for {self.command} {path}")

    # Reading

    def info(self, repo: str, revision: str = "main") -> None:
        model, commit = self._find(repo, revision)
        siblings = [{"rfilename": name} for name in sorted(model.commits[commit])]
        about = {"id": repo, "modelId": repo, "private": model.private, "gated": model.gated}
        self._send_json({**about, "sha": commit, "siblings": siblings, "tags": []})

    def tree(self, repo: str, revision: str) -> None:
        model, commit = self._find(repo, revision)
        entries: list[dict[str, object]] = []
        for name, path in sorted(model.commits[commit].items()):
            size, digest = path.stat().st_size, _sha256(path)
            entry: dict[str, object] = {"type": "file", "path": name, "size": size, "oid": digest}
            if size >= LARGE:
                entry["lfs"] = {"oid": digest, "size": size, "pointerSize": 134}
            entries.append(entry)
        self._send_json(entries)

    def resolve(self, repo: str, revision: str, file: str) -> None:
        model, commit = self._find(repo, revision)
        if model.gated and not self._has_token:
            raise _RefusedError(401, "GatedRepo", "Access to this model is restricted")
        path = model.commits[commit].get(file)
        if path is None:
            raise _RefusedError(
                404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit}
            )
        digest, size = _sha256(path), path.stat().st_size
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_git_sha1(path)}"'}
        if size < LARGE:
            return self._send_file(path, headers)
        headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(size)}
        self._send(302, b"", {**headers, "Location": f"{self.server.hub.file_host}/blobs/{digest}"})

    def blob(self, digest: str) -> None:
        path = self.server.hub.blob(digest)
        if path is None:
            raise _RefusedError(404, "EntryNotFound", "Blob not found")
        self._send_file(path, {"ETag": f'"{digest}"'})

    # Writing

    def create(self) -> None:
        self._need_token()
        asked = json.loads(self.content)
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if repo in self.server.hub.models:
            return self._send_json({"url": f"{self.server.hub.endpoint}/{repo}"}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        model = self.server.hub.models[repo] = Model(private=private)
        model.commit({}, "main")
        self._send_json({"url": f"{self.server.hub.endpoint}/{repo}"})

    def branch(self, repo: str, branch: str) -> None:
        self._need_token()
        model, commit = self._find(repo, "main")
        if branch in model.branches:
            raise _RefusedError(409, "", "Reference already exists")
        model.branches[branch] = commit
        self._send_json({}, 201)

    def validate(self) -> None:
        header = json.loads(self.content)["content"].split("---")
        errors = [] if len(header) > 2 else [{"message": "no metadata header"}]
        self._send_json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, repo: str, revision: str) -> None:
        self._need_token()
        self._find(repo, revision)
        files = json.loads(self.content)["files"]
        for file in files:
            file["uploadMode"] = "lfs" if file["size"] >= LARGE else "regular"
            file["shouldIgnore"] = False
        self._send_json({"files": files})

    def batch(self, repo: str) -> None:
        objects = json.loads(self.content)["objects"]
        for entry in objects:
            href = f"{self.server.hub.file_host}/blobs/{entry['oid']}"
            entry["actions"] = {"upload": {"href": href}}
        self._send_json({"transfer": "basic", "objects": objects})

    def put(self, digest: str) -> None:
        stored = self.server.hub.store(self.content)
        if stored.name != digest:
            raise _RefusedError(400, "", "The content does not have this hash")
        self._send(200, b"", {"ETag": f'"{digest}"'})

    def commit(self, repo: str, revision: str) -> None:
        self._need_token()
        model, parent = self._find(repo, revision)
        files = dict(model.commits[parent])
        for line in self.content.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = self.server.hub.store(base64.b64decode(value["content"]))
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.hub.storage / value["oid"]
        commit = model.commit(files, revision)
        url = f"{self.server.hub.endpoint}/{repo}/commit/{commit}"
        self._send_json({"success": True, "commitOid": commit, "commitUrl": url})

    # Helpers

    @property
    def _has_token(self) -> bool:
        return "Authorization" in self.headers

    def _need_token(self) -> None:
        if not self._has_token:
            raise _RefusedError(401, "", "Invalid username or password.")

    def _find(self, repo: str, revision: str) -> tuple[Model, str]:
        model = self.server.hub.models.get(repo)
        if model is None or (model.private and not self._has_token):
            raise _RefusedError(
                404 if self._has_token else 401, "RepoNotFound", "Repository not found"
            )
        commit = model.resolve(revision)
        if commit is None:
            raise _RefusedError(404, "RevisionNotFound", f"Invalid rev id: {quote(revision)}")
        return model, commit

    def _send_file(self, path: Path, headers: dict[str, str]) -> None:
        content, status = path.read_bytes(), 200
        if self.fault and self.fault.spoil and self.command == "GET":
            content = bytes(byte ^ 255 for byte in content[:100]) + content[100:]
        if self.fault and self.fault.shorten and self.command == "GET":
            content = content[: -self.fault.shorten]
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start, size = int(wanted[1]), len(content)
            content, status = content[start:], 206
            headers = {**headers, "Content-Range": f"bytes {start}-{size - 1}/{size}"}
        self._send(status, content, {**headers, "Accept-Ranges": "bytes"})

    def _send_json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        closing = {"Content-Length": str(len(content)), "Connection": "close"}  # stop() means stop
        for name, value in {**headers, **closing}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.fault and self.fault.cut is not None:
            content = content[: int(len(content) * self.fault.cut)]
        if self.command != "HEAD":
            self.wfile.write(content)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", rf"/api/models/{_REPO}", _Handler.info),
    ("GET", rf"/api/models/{_REPO}/revision/{_REVISION}", _Handler.info),
    ("GET", rf"/api/models/{_REPO}/tree/{_REVISION}", _Handler.tree),
    ("HEAD GET", rf"/{_REPO}/resolve/{_REVISION}/(?P<file>.+)", _Handler.resolve),
    ("HEAD GET", r"/blobs/(?P<digest>[0-9a-f]+)", _Handler.blob),
    ("PUT", r"/blobs/(?P<digest>[0-9a-f]+)", _Handler.put),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("POST", rf"/api/models/{_REPO}/branch/(?P<branch>[^/]+)", _Handler.branch),
    ("POST", rf"/api/models/{_REPO}/preupload/{_REVISION}", _Handler.preupload),
    ("POST", rf"/api/models/{_REPO}/commit/{_REVISION}", _Handler.commit),
    ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.batch),
]
