"""Start the processes of a run, as torchrun does, and say once what went wrong in them.

``TUNING_TORCHRUN`` holds torchrun's options, such as ``--nproc-per-node 2``; without it a run is
one process. It is no parameter: results agree but for rounding.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.run import parse_args, run

from tuning.processes.group import Processes
from tuning.run.errors import UserError
from tuning.run.files import failure_of, told

TORCHRUN = "TUNING_TORCHRUN"

# Why a process failed, from what best explains the end of a run to what follows from it.
_USER_ERROR, _KILLED, _FAULT, _LOST_CONNECTION, _STOPPED = range(5)


def run_in_processes(module: str, main: Callable[[Processes], None]) -> None:
    """Call ``main`` here; or start the run's processes, each of which calls it, and wait for them.

    Args:
        module: What ``python -m`` started, and what each process starts.
        main: The work.

    Raises:
        UserError: torchrun does not accept its options, or a process failed, and why.
    """
    options = os.environ.get(TORCHRUN)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _work(main)
    elif options:
        _start(module, options)
    else:
        main(Processes())


def _work(main: Callable[[Processes], None]) -> None:
    """Do the work of one of the processes."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gpu = None
    if torch.cuda.is_available():
        gpu = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(gpu)
    try:
        dist.init_process_group("nccl" if gpu else "gloo", device_id=gpu)
        main(
            Processes(
                rank=dist.get_rank(),
                size=dist.get_world_size(),
                num_on_this_host=int(os.environ["LOCAL_WORLD_SIZE"]),
            )
        )
    except UserError as error:
        _fail(_USER_ERROR, str(error))
    except OSError as error:
        _fail(_USER_ERROR, told(error))
    except Exception as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            _fail(_LOST_CONNECTION, f"lost the connection to another process: {error}")
        if failure := failure_of(error):
            _fail(_USER_ERROR, told(failure))
        _fail(_FAULT, traceback.format_exc())


def _fail(kind: int, message: str) -> NoReturn:
    """End, and leave the reason where torchrun looks for it."""
    reason = {"message": message, "timestamp": int(time.time()), "kind": kind}
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(reason), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # the ordinary way out would wait for the other processes


def _start(module: str, options: str) -> None:
    """Do the work of torchrun in this process: start the others, wait for them."""
    with TemporaryDirectory() as logs:
        ours = ["--log-dir", logs, "--signals-to-handle", "SIGTERM"]
        try:
            with redirect_stderr(io.StringIO()):
                command = [*ours, *shlex.split(options), "-m", module]
                arguments = parse_args(command)  # type: ignore[no-untyped-call]
            if arguments.training_script != module:
                raise ValueError
            arguments.training_script_args = sys.argv[1:]
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # else torchrun warns; each sets its own
            logging.disable()
            run(arguments)  # type: ignore[no-untyped-call]
        except (SystemExit, ValueError) as error:
            raise UserError(
                f"{TORCHRUN}: found {options!r}; wanted options of torchrun, such as "
                "--nproc-per-node 2."
            ) from error
        except (RendezvousError, dist.DistError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{TORCHRUN}={options}: the hosts did not meet: {reason}") from error
        except ChildFailedError as error:
            raise UserError(_reason(error)) from None
        except SignalException as error:
            print(
                f"\nstopped by signal {error.sigval}; run the same command again to continue.",
                file=sys.stderr,
            )
            sys.exit(128 + error.sigval)


def _reason(error: ChildFailedError) -> str:
    """Choose, of all failures, the one that best explains the others."""
    reasons = []
    for rank, failure in error.failures.items():
        code, message = failure.exitcode, failure.message
        kind = failure.error_file_data.get("kind")
        if kind is None:  # it left no reason
            kind = _STOPPED if code == -signal.SIGTERM else _KILLED
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            message = f"process {rank} of the run {how}; run the same command again to continue."
        reasons.append((kind, rank, message))
    return min(reasons)[2]
