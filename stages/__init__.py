"""Fine-tune a language model on dialogues: fetch -> prep -> encode -> train -> score -> eval."""

import gc
import os
import sys

PARENT = os.getppid()
"""The process that started this one, noted before slow imports give it time to end."""

if sys.argv[0] == "-m":  # as python -m stages.… begins; run_stage takes collection up again
    gc.disable()  # nothing that an import makes is garbage, and looking for it takes a fifth of it
