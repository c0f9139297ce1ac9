"""A Weights & Biases server on loopback: as much of its protocol as ``wandb sync`` speaks."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Received:
    """What was uploaded."""

    url: str
    runs: list[dict[str, Any]] = field(default_factory=list)
    """What each upload said of its run: ``name`` (the id), ``displayName``, ``groupName``, …"""
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows by the run's id, in order of arrival."""
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The last one by the run's id."""


@contextmanager
def loopback_wandb() -> Iterator[Received]:
    """Serve until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    received = Received(f"http://127.0.0.1:{server.server_port}")
    server.received = received  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        received: Received = self.server.received  # type: ignore[attr-defined]
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            answer = {"data": _answer(json.loads(body), received)}
        elif self.path.endswith("/file_stream"):
            files = json.loads(body).get("files", {})
            rows, summaries = (
                [json.loads(line) for line in files.get(name, {}).get("content", [])]
                for name in ("wandb-history.jsonl", "wandb-summary.json")
            )
            run_id = self.path.split("/")[-2]
            received.history.setdefault(run_id, []).extend(rows)
            for summary in summaries:
                received.summaries[run_id] = summary
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_POST


def _answer(request: dict[str, Any], received: Received) -> dict[str, Any]:
    """To one query or mutation of GraphQL."""
    named = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
    name, values = named[1] if named else "", request.get("variables") or {}
    if name == "UpsertBucket":
        received.runs.append(values)
        project = {"id": "p", "name": values["project"], "entity": {"id": "e", "name": "team"}}
        run = {"id": "r", "name": values["name"], "displayName": values.get("displayName")}
        bucket = run | {"config": "{}", "historyLineCount": 0, "project": project}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    if name == "CreateRunFiles":
        files = [
            {"name": file, "uploadUrl": f"{received.url}/upload/{file}"} for file in values["files"]
        ]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
    if name == "CreateArtifact":
        artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s"}}
        return {"createArtifact": {"artifact": artifact}}
    return {
        "viewer": {"id": "v", "entity": "team", "username": "me", "flags": "{}"},
        "serverInfo": {"cliVersionInfo": {"max_cli_version": "9.9.9"}, "features": []},
    }
