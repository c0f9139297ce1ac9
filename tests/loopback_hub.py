"""A model hub on loopback: the part of the hub's HTTP interface that a snapshot download reads.

One repository, one commit, served from a folder to the real client; a fault makes it misbehave.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

REPO = "tiny/gpt2"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def loopback_hub(
    folder: Path, fault: Fault | None = None, *, kind: Kind = "model"
) -> Iterator[str]:
    """Serve ``folder`` as ``REPO`` at ``COMMIT``; the value is the address for ``HF_ENDPOINT``."""
    handler = partial(_HubHandler, folder=folder, fault=fault, kind=kind)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _HubHandler(BaseHTTPRequestHandler):
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

    def log_message(self, *_: object) -> None:
        """Say nothing in the test report."""

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

    def _send_json(self, answer: object) -> None:
        body = json.dumps(answer).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self._send(200, headers, body)

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
        if self.command == "GET":
            self.wfile.write(body)


def _is_lfs(file: Path) -> bool:
    return file.suffix in {".safetensors", ".bin", ".parquet"}


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _git_sha1(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
