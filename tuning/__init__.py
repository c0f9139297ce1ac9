"""The rooms of the house: each is used whole by one stage or by a set of them.

A stage lists the rooms that it loads in ``dvc.yaml``, so a room holds only what all of its stages
use. Imports go down only: the order is in ``tests/unit/test_architecture.py``.
"""

import gc
import os
import signal
import sys

PARENT = os.getppid()
"""The process that started this one, noted before slow imports give it time to end."""


def stop_importing(_number: int, _frame: object) -> None:
    """Ctrl-C before ``run_stage`` has begun: no line of an import tells a person anything."""
    os.write(2, b"\ninterrupted; run the same command again to continue.\n")
    os._exit(128 + signal.SIGINT)


if sys.argv[0] == "-m":  # as python -m stages.… begins; run_stage takes collection up again
    gc.disable()  # nothing that an import makes is garbage, and looking for it takes a fifth of it
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop_importing)
