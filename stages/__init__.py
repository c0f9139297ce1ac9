"""Fine-tune a language model on dialogues: fetch -> prep -> encode -> train -> score -> eval."""

import os

PARENT = os.getppid()
"""The process that started this one, noted before slow imports give it time to end."""
