"""A model hub on loopback: the part of the hub's HTTP interface that the real client uses here.

Downloads: one repository, one commit, served from a folder. Uploads: repositories by name, each
with the files of its last commit. A fault makes it misbehave.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

Fault = Literal[
    "gated",  # file contents are refused; the list of files is public, as on the real hub
    "missing_repo",
    "missing_revision",
    "private_repo",
    "server_error",
    "truncated",  # large files stop half-way, however often they are asked for
    "wrong_bytes",  # large files have the announced size, but one byte differs
]
Kind = Literal["model", "dataset"]

UploadFault = Literal[
    "cut",  # the connection ends within a large file
    "server_error",  # at the commit
]
LFS_BATCH = ".git/info/lfs/objects/batch"

REPO = "tiny/gpt2"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def loopback_hub(
    folder: Path, fault: Fault | None = None, *, kind: Kind = "model"
) -> Iterator[str]:
    """Serve ``folder`` as ``REPO`` at ``COMMIT``; the value is the address for ``HF_ENDPOINT``."""
    with _served(partial(_HubHandler, folder=folder, fault=fault, kind=kind)) as endpoint:
        yield endpoint


def closed_port() -> str:
    """Return an address at which nobody answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@dataclass
class Published:
    """A repository of models that was uploaded to."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    num_commits: int = 0


@dataclass
class ReceivingHub:
    """A hub that one token may write to, under one owner's name."""

    token: str
    owner: str
    fault: UploadFault | None = None
    repositories: dict[str, Published] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """Contents of large files by SHA-256, whether or not a commit has them."""


@contextmanager
def receiving_hub(hub: ReceivingHub) -> Iterator[str]:
    """Serve a hub; the value is the address for ``HF_ENDPOINT``."""
    with _served(partial(_ReceivingHandler, hub=hub)) as endpoint:
        yield endpoint


@contextmanager
def _served(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    """What both kinds of hub answer with."""

    def log_message(self, *_: object) -> None:
        """Say nothing in the test report."""

    def _send_json(self, answer: object, status: int = 200) -> None:
        body = json.dumps(answer).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self._send(status, headers, body)

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, "Content-Length": "0"}
        if code:
            headers["X-Error-Code"] = code
        self._send(status, headers, b"")

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _HubHandler(_Handler):
    def __init__(self, *args: Any, folder: Path, fault: Fault | None, kind: Kind) -> None:
        self.folder = folder
        self.fault = fault
        self.api = f"/api/{kind}s/{REPO}"
        self.contents = f"/{REPO}" if kind == "model" else f"/{kind}s/{REPO}"
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        if self.fault == "server_error":
            self._refuse(500, "", "Internal Error")
        elif self.fault == "missing_repo":
            self._refuse(404, "RepoNotFound", "Repository not found")
        elif self.fault == "private_repo":  # what the anonymous hear, of a missing one too
            self._refuse(401, "", "Invalid username or password.")
        elif self.fault == "missing_revision":
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {COMMIT}")
        elif path == f"{self.api}/revision/{COMMIT}":
            siblings = [self._sibling(file) for file in self._files()]
            self._send_json({"id": REPO, "sha": COMMIT, "siblings": siblings})
        elif path == f"{self.api}/tree/{COMMIT}":
            self._send_json([self._tree_entry(file) for file in self._files()])
        elif path.startswith(start := f"{self.contents}/resolve/{COMMIT}/"):
            if self.fault == "gated":
                self._refuse(403, "GatedRepo", f"Access to {REPO} is restricted.")
            else:
                self._send_file(self.folder / unquote(path.removeprefix(start)))
        else:
            self._refuse(404, "EntryNotFound", "Entry not found")

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def _name(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()

    def _sibling(self, file: Path) -> dict[str, Any]:
        """One file in the answer to ``model_info`` or ``dataset_info``, with files' metadata."""
        entry: dict[str, Any] = {
            "rfilename": self._name(file),
            "size": file.stat().st_size,
            "blobId": _git_sha1(file),
        }
        if _is_lfs(file):
            entry["lfs"] = {"sha256": _sha256(file), "size": entry["size"], "pointerSize": 134}
        return entry

    def _tree_entry(self, file: Path) -> dict[str, Any]:
        """One file in the answer to ``list_repo_tree``, which spells the same differently."""
        size = file.stat().st_size
        entry = {"type": "file", "path": self._name(file), "size": size, "oid": _git_sha1(file)}
        if _is_lfs(file):
            entry["lfs"] = {"oid": _sha256(file), "size": size, "pointerSize": 134}
        return entry

    def _send_file(self, file: Path) -> None:
        content = file.read_bytes()
        size = len(content)
        if _is_lfs(file) and self.fault == "wrong_bytes":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if _is_lfs(file) and self.fault == "truncated":
            content = content[: size // 2]
        headers = {
            "ETag": f'"{_sha256(file) if _is_lfs(file) else _git_sha1(file)}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start > 0:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        headers["Content-Length"] = str(size - start)
        self._send(206 if start > 0 else 200, headers, content[start:])


class _ReceivingHandler(_Handler):
    def __init__(self, *args: Any, hub: ReceivingHub) -> None:
        self.hub = hub
        super().__init__(*args)

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self._body())

    def do_PUT(self) -> None:
        """Keep a large file's content, as a store of its own does, which is asked for no token."""
        if self.hub.fault == "cut":
            self.rfile.read(1000)
            self.connection.close()
            return
        oid = self.path.removeprefix("/large/")
        content = self._body()
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.large[oid] = content
        self._send(200, {"Content-Length": "0"}, b"")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, body: bytes) -> None:
        path = urlsplit(self.path).path
        if self.headers["Authorization"] != f"Bearer {self.hub.token}":
            self._refuse(401, "", "Invalid username or password.")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":  # of a card; its form is the hub's business
            self._send_json({"errors": [], "warnings": []})
        else:
            name = path.removeprefix("/api/models/").removeprefix("/").removesuffix(LFS_BATCH)
            name = "/".join(name.split("/")[:2])
            if name not in self.hub.repositories:
                self._refuse(404, "RepoNotFound", "Repository not found")
            else:
                self._answer_of(name, self.hub.repositories[name], path, body)

    def _answer_of(self, name: str, repository: Published, path: str, body: bytes) -> None:
        start = f"/api/models/{name}"
        if path == start:
            siblings = [{"rfilename": name} for name in repository.files]
            self._send_json({"id": name, "private": repository.private, "siblings": siblings})
        elif path == f"{start}/tree/main":
            entries = [
                {"type": "file", "path": file, "size": len(content), "oid": "0" * 40}
                for file, content in repository.files.items()
            ]
            self._send_json(entries)
        elif path == f"{start}/preupload/main":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if _is_lfs(Path(file["path"])) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._send_json({"files": files})
        elif path == f"/{name}{LFS_BATCH}":
            host = f"http://{self.headers['Host']}"
            objects = [
                one | {"actions": {"upload": {"href": f"{host}/large/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._send_json({"transfer": "basic", "objects": objects})
        elif path == f"{start}/commit/main" and self.hub.fault != "server_error":
            self._commit(name, repository, body)
        else:
            self._refuse(500, "", "Internal Error")

    def _create(self, wanted: Mapping[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] != self.hub.owner:
            self._refuse(403, "", "You don't have the rights to create a model there.")
        else:
            is_new = name not in self.hub.repositories
            private = wanted.get("visibility") == "private"
            self.hub.repositories.setdefault(name, Published(private))
            url = f"http://{self.headers['Host']}/{name}"
            self._send_json({"url": url}, status=200 if is_new else 409)

    def _commit(self, name: str, repository: Published, body: bytes) -> None:
        """Take all operations of a commit, or none."""
        files = dict(repository.files)
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        repository.files = files
        repository.num_commits += 1
        url = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
        self._send_json({"commitUrl": url, "commitOid": COMMIT})


def _is_lfs(file: Path) -> bool:
    return file.suffix in {".safetensors", ".bin", ".parquet", ".gguf"}


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _git_sha1(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
