"""What llama.cpp feeds a model: its own reading of the chat template and of the text.

``python -m tuning.release.llama_cpp FILE.gguf`` is a process of its own, for what it does not take
can end it: bodies of chat completions, a JSON list, on its input, and the token ids of each on its
output.
"""

from __future__ import annotations

import http.client
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tuning.run.pipeline import ROOT
from tuning.run.process import die_with_parent

PACKAGE = "xllamacpp"
MAX_SECONDS = 300
"""For all bodies; a prompt takes a millisecond."""
_ERROR = re.compile(r"^Error: (.+)", re.MULTILINE)


def package_version() -> str | None:
    """Return the version of the package that holds llama.cpp, or None if it is not installed."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return None


def feed(file: Path, bodies: Sequence[Mapping[str, Any]]) -> list[list[int] | str] | str:
    """Return the ids that a model is fed for each body, or why there are none; or for none of them.

    Args:
        file: GGUF file with at least a tokenizer and a chat template.
        bodies: Of chat completions: ``messages``, and maybe ``tools``, ``chat_template_kwargs``.
    """
    try:
        run = subprocess.run(
            [sys.executable, "-m", "tuning.release.llama_cpp", str(file.absolute())],
            cwd=ROOT,
            input=json.dumps(bodies),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=MAX_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {MAX_SECONDS} s"
    if run.returncode == 0:
        found: list[list[int] | str] = json.loads(run.stdout.splitlines()[-1])
        return found
    said = _ERROR.findall(run.stderr)
    return f"it does not take the template ({said[-1]})" if said else "it does not load"


def main() -> None:
    """Serve this machine alone, at a free port, and ask for each body's tokens."""
    die_with_parent()
    llama_cpp = importlib.import_module(PACKAGE)
    settings = llama_cpp.CommonParams()
    settings.model.path = sys.argv[1]
    settings.port = 0
    settings.n_ctx = 64
    settings.n_gpu_layers = 0
    settings.warmup = settings.fit_params = False
    server = llama_cpp.Server(settings)
    host = server.listening_address.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=MAX_SECONDS)
    print(json.dumps([_tokens(connection, body) for body in json.load(sys.stdin)]), flush=True)
    os._exit(0)  # at an ordinary end llama.cpp's server waits for its loop, now and then for ever


def _tokens(connection: http.client.HTTPConnection, body: Mapping[str, Any]) -> list[int] | str:
    written = _asked(connection, "/apply-template", body)
    if "error" in written:
        first = str(written["error"]["message"]).strip().splitlines()[-1:]
        return f"it refuses the messages ({' '.join(first)})"
    text = {"content": written["prompt"], "add_special": True, "parse_special": True}
    found: list[int] = _asked(connection, "/tokenize", text)["tokens"]
    return found


def _asked(
    connection: http.client.HTTPConnection, path: str, body: Mapping[str, Any]
) -> dict[str, Any]:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    return answer


if __name__ == "__main__":
    main()
