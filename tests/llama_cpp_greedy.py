"""What llama.cpp writes behind a prompt, with nothing rounded but what the file holds.

``python -m tests.llama_cpp_greedy FILE PROMPT NEVER NUM`` is a process of its own, for a file that
llama.cpp does not take ends it.
"""

from __future__ import annotations

import http.client
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuning.run.process import die_with_parent


def greedy(file: Path, prompt: Sequence[int], never: Sequence[int], num_tokens: int) -> list[int]:
    """Return the likeliest token ids behind those of a prompt, without ``never``."""
    command = [sys.executable, "-m", "tests.llama_cpp_greedy", str(file)]
    command += [json.dumps(list(prompt)), json.dumps(list(never)), str(num_tokens)]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
    assert run.returncode == 0, run.stderr[-3000:]
    written: list[int] = json.loads(run.stdout.splitlines()[-1])
    return written


def main() -> None:
    """Serve the file at a free port of this machine and ask once."""
    die_with_parent()
    file, prompt, never, num_tokens = sys.argv[1:]
    llama_cpp: Any = importlib.import_module("xllamacpp")
    settings = llama_cpp.CommonParams()
    settings.model.path = file
    settings.port = settings.n_gpu_layers = 0
    settings.n_ctx = 256
    settings.n_parallel = 1
    settings.warmup = settings.fit_params = False
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.flash_attn_type = llama_cpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.cache_type_k = settings.cache_type_v = llama_cpp.ggml_type.GGML_TYPE_F32
    server = llama_cpp.Server(settings)
    body = {
        "prompt": json.loads(prompt),
        "n_predict": int(num_tokens),
        "temperature": 0,
        "return_tokens": True,
        "logit_bias": [[id_, False] for id_ in json.loads(never)],
    }
    host = server.listening_address.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("POST", "/completion", json.dumps(body))
    print("\n" + json.dumps(json.loads(connection.getresponse().read())["tokens"]), flush=True)
    os._exit(0)  # llama.cpp's server may wait for ever at an ordinary end


if __name__ == "__main__":
    main()
