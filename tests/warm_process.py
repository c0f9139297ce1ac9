"""``python -m …``, ``python -c …`` and ``dvc`` as forks of one process that has loaded libraries.

Loading torch and transformers takes seconds, most stages of a tiny model less. Where a start is not
what a test is about, ``warm("python")`` stands for the real one: the command sends its words,
folder, environment, limits and standard streams to the process, and ends as its fork has ended. Of
the project the process keeps nothing: a fork loads it from its own folder, as Python does. It loads
and runs nothing, for only a process that has not used threads may be forked.

What Python and libraries read as they are loaded must be as it was for the process, else the
command is started as ever. A test of who is killed with whom starts ``sys.executable``.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import resource
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

PROJECT = ("stages", "tools", "tuning")
ROOT = Path(__file__).absolute().parents[1]
READ_LATE = (
    *("COLUMNS", "DVC_", "GIT_", "LINES", "OLDPWD", "PATH", "PWD", "PYTEST_", "PYTHONBREAKPOINT"),
    *("PYTHONPATH", "PYTHONWARNINGS", "RAY_", "RAYON_", "SHLVL", "TESTS_", "TMPDIR"),
    *("TOKENIZERS_", "TORCHINDUCTOR_", "TUNING_", "WANDB_", "_"),
)
"""How variables begin that are read after loading, or that a fork sees to."""
LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
STREAMS = ("stdin", "stdout", "stderr")
TRANSFORMERS = (
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.gpt2.tokenization_gpt2",
    "transformers.models.auto.modeling_auto",
)
LOADED_LATER = {
    "dvc": (
        *("dulwich.porcelain", "dvc.cachemgr", "dvc.cli.parser", "dvc.commands.repro"),
        *("dvc.repo.datasets", "dvc.repo.index", "dvc.repo.plots", "dvc.repo.reproduce"),
        *("dvc.repo.experiments.executor.local", "dvc.utils.strictyaml", "dvc_http", "hydra.utils"),
        *("dvc_data.hashfile.db.local", "networkx", "pygit2", "ruamel.yaml"),
    ),
    "stages.fetch": TRANSFORMERS,
    "stages.encode": TRANSFORMERS,
    "stages.train": TRANSFORMERS,
    "stages.eval": ("wandb",),
}
"""What a command loads only as it runs."""
LOADED_BY_WORKERS = (*TRANSFORMERS, "peft")
"""What a command of Python's own words may load: so the tests' workers are started."""
_VARIABLE = "TESTS_WARM_PROCESS"


def warm(name: str) -> str:
    """The path of ``python`` or ``dvc`` as a fork; of the real one where no process is warm."""
    return str(Path(os.environ.get(_VARIABLE, Path(sys.executable).parent)) / name)


def warm_path() -> str:
    """``PATH`` with both."""
    folders = [Path(warm("python")).parent, Path(sys.executable).parent, os.environ["PATH"]]
    return os.pathsep.join(map(str, folders))


@contextmanager
def warm_process(folder: Path) -> Iterator[None]:
    """Have the process; it loads what a command needs when the first one asks.

    Args:
        folder: A new one, for the two commands and a socket: its name must be short.
    """
    for name in ("python", "dvc"):
        words = shlex.join([sys.executable, "-IS", __file__, str(folder), name])
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        script.chmod(0o755)
    (folder / "environment.json").write_text(json.dumps(_read_early()), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, __file__, folder],
        cwd="/",
        env=_read_early() | {"PATH": os.environ["PATH"]},
        stdin=subprocess.PIPE,  # when nobody holds it, the process ends
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,  # Ctrl-C is not for it
    ) as process:
        assert process.stdout is not None and process.stdout.read(1)
        os.environ[_VARIABLE] = str(folder)
        yield
        del os.environ[_VARIABLE]


def _read_early() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(READ_LATE)}


# --- the command ----------------------------------------------------------------------------------


def ask(folder: Path, name: str, words: list[str]) -> NoReturn:
    """Have it done by a fork, or start it."""
    is_unbuffered = words[:1] == ["-u"]
    asked = ["-m", "dvc", *words] if name == "dvc" else words[is_unbuffered:]
    can_fork = asked[:1] == ["-c"] or (
        asked[:1] == ["-m"] and asked[1].partition(".")[0] in ("dvc", *PROJECT)
    )
    if not can_fork or _read_early() != json.loads((folder / "environment.json").read_bytes()):
        real = str(Path(sys.executable).with_name(name))
        os.execv(real, [real, *words])
    request = {
        "words": asked,
        "is_unbuffered": is_unbuffered,
        "folder": str(Path.cwd()),
        "environment": dict(os.environ),
        "limits": [resource.getrlimit(limit) for limit in LIMITS],
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(str(folder / "socket"))
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        code = int(connection.recv(16))
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


# --- the process ----------------------------------------------------------------------------------


def serve(folder: Path) -> dict[str, Any] | None:
    """Return in each fork what it is asked to be; in the process, nothing at its end."""
    paths = sys.path[1:]  # without this file's folder
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        os.write(1, b"!")
        while select.select([0, listener.fileno()], [], [])[0] == [listener.fileno()]:
            with suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            connection, _ = listener.accept()
            with connection:
                message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
                request: dict[str, Any] = json.loads(message)
                sys.path[:] = [str(ROOT), *paths]
                load(*request["words"][:2])
                sys.path[:] = paths
                if os.fork() == 0:
                    listener.close()
                    keep(connection)
                    take(streams, request)
                    return request
            for stream in streams:
                os.close(stream)
    with suppress(ChildProcessError):
        while True:
            os.wait()
    return None


def load(option: str, name: str) -> None:
    """What a command loads, of the libraries alone."""
    modules = [name, *LOADED_LATER.get(name, ())] if option == "-m" else LOADED_BY_WORKERS
    if not _loaded.issuperset(modules):
        _loaded.update(modules)
        for module in modules:
            with suppress(ImportError):  # the fork says so
                importlib.import_module(module)
        for module in list(sys.modules):
            if module.partition(".")[0] in PROJECT:
                del sys.modules[module]
        gc.collect()
        gc.freeze()


_loaded: set[str] = set()


def keep(connection: socket.socket) -> None:
    """Return in a fork; wait here for its end, or end it when nobody waits any more."""
    process = os.fork()
    if process == 0:
        connection.close()
        return
    end = os.pidfd_open(process)
    if end not in select.select([end, connection.fileno()], [], [])[0]:
        os.kill(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with suppress(OSError):
        connection.send(str(code).encode())
    os._exit(0)


def take(streams: list[int], request: dict[str, Any]) -> None:
    """Take what a process has from the one that started it."""
    for number, (name, stream) in enumerate(zip(STREAMS, streams, strict=True)):
        os.dup2(stream, number)
        os.close(stream)
        as_before: io.TextIOWrapper = getattr(sys, name)
        unbuffered = request["is_unbuffered"] or as_before.write_through
        mode, buffering = "wb" if number else "rb", 0 if unbuffered else -1
        anew = io.TextIOWrapper(
            open(number, mode, buffering, closefd=False),  # noqa: SIM115 - as long as the process
            encoding=as_before.encoding,
            errors=as_before.errors,
            line_buffering=as_before.line_buffering,
            write_through=unbuffered,
        )
        setattr(sys, name, anew)
        setattr(sys, f"__{name}__", anew)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for limit, values in zip(LIMITS, request["limits"], strict=True):
        resource.setrlimit(limit, values)


def be(words: list[str]) -> None:
    """What Python does with such words, once it has started."""
    option, what, *_ = words
    tempfile.tempdir = None
    added = os.environ.get("PYTHONPATH", "")
    sys.path[:0] = [
        "" if option == "-c" else str(Path.cwd()),
        *filter(None, added.split(os.pathsep)),
    ]
    sys.warnoptions[:] = filter(None, os.environ.get("PYTHONWARNINGS", "").split(","))
    warnings._processoptions(sys.warnoptions)  # type: ignore[attr-defined]
    sys.argv = [option, *words[2:]]
    sys.modules["__main__"] = types.ModuleType("__main__")
    gc.enable()
    if option == "-c":
        exec(compile(what, "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        runpy._run_module_as_main(what)  # type: ignore[attr-defined]


def main() -> None:
    folder, *words = sys.argv[1:]
    if words:
        ask(Path(folder), words[0], words[1:])
    gc.disable()
    if (request := serve(Path(folder))) is not None:
        be(request["words"])


if __name__ == "__main__":
    main()
