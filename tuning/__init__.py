"""The rooms of the house: each is used whole by one stage or by a set of them.

A stage lists the rooms that it loads in ``dvc.yaml``, so a room holds only what all of its stages
use. Imports go down only: the order is in ``tests/unit/test_architecture.py``.
"""

import gc
import os
import sys

PARENT = os.getppid()
"""The process that started this one, noted before slow imports give it time to end."""

if sys.argv[0] == "-m":  # as python -m stages.… begins; run_stage takes collection up again
    gc.disable()  # nothing that an import makes is garbage, and looking for it takes a fifth of it
