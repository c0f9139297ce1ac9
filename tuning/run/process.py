"""A stage as a process: the exit code that DVC must see, and no life after dvc."""

from __future__ import annotations

import ctypes
import gc
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from tuning import PARENT, stop_importing
from tuning.run.errors import UserError
from tuning.run.files import failure_of, told
from tuning.run.visible import visible

MAX_LINE = 4_000
"""Characters of a line of a message that are shown."""

_PR_SET_PDEATHSIG = 1


def run_stage(name: str, main: Callable[[], None]) -> None:
    """Run one stage's ``main``; end the process with the exit code DVC must see.

    A user's mistake prints its message alone and exits 1. SIGINT and SIGTERM exit 128 + n: after a
    caught signal, exit code 0 would make DVC cache a partial model as if it were final.
    """
    gc.freeze()  # what the imports made stays
    gc.enable()
    die_with_parent()
    if os.getppid() != PARENT:  # dvc has ended while this process was importing
        sys.exit(1)
    if signal.getsignal(signal.SIGINT) is stop_importing:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _exit_on_signal)
    # A name that the terminal cannot show is no failure; dvc puts another stream before its own.
    for stream in (sys.__stdout__, sys.__stderr__):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
    except UserError as error:
        print(f"\n{name}: {_shown(str(error))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; run the same command again to continue.", file=sys.stderr)
        _leave(128 + signal.SIGINT)
    except Exception as error:
        failure = error if isinstance(error, OSError) else failure_of(error)
        if failure is None:
            raise
        print(f"\n{name}: {_shown(told(failure))}", file=sys.stderr)
        sys.exit(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # all is done, whatever libraries still wait for
        signal.signal(number, lambda *_: _leave(0))


def die_with_parent() -> None:
    """Ask Linux to kill this process when dvc dies: an orphan would write beside the next run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _shown(message: str) -> str:
    """Return a message as a terminal may show it, whatever names and data stand in it."""
    lines = visible(message, keep="\n").split("\n")
    return "\n".join(line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…" for line in lines)


def _exit_on_signal(number: int, _frame: object) -> None:
    """Leave at once: a checkpoint is either complete on disk or it is ignored."""
    print(f"\nstopped by signal {number}; run the same command again to continue.", file=sys.stderr)
    _leave(128 + number)


def _leave(code: int) -> NoReturn:
    """End at once: what libraries do at an exit may wait for what the signal has broken."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
