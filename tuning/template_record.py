"""``template.json``: the record, in a model's or tokenizer's folder, of its template.

encode writes it beside the tokenizer, train starts and ends by it and passes it on, score reads
which template to use, release what the card is to say. So only ``tuning/tokens`` knows templates.
A folder without one is that of a model that knows no template of ours.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tuning.run.files import write_json

RECORD = "template.json"


@dataclass(frozen=True, kw_only=True)
class TemplateRecord:
    """A template, and what it changed in the base model's tokenizer."""

    name: str
    """The template's name in ``tuning.tokens.templates``."""
    num_base_tokens: int
    """Ids of the base model's own tokenizer; new ones follow them."""
    new_rows: list[list[int]]
    """One list per new id, in order: the base tokens whose mean its embedding begins as (an empty
    list stands for all of them)."""
    stop_ids: list[int]
    """Ids that end generation; the first is the one that ends a turn as it should."""
    pad_id: int
    """Id of the token that fills rows; no text and no turn holds it."""
    usage: str
    """Markdown that tells a user of the model how chats are written for it."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Variables that the base model's own chat template was given."""

    @property
    def new_tokens(self) -> range:
        """Ids of the new tokens."""
        return range(self.num_base_tokens, self.num_base_tokens + len(self.new_rows))


def write_record(folder: Path, record: TemplateRecord) -> None:
    """Write it into an existing folder."""
    write_json(folder / RECORD, asdict(record))


def read_record(folder: Path) -> TemplateRecord | None:
    """Return the record in a folder, or None where there is none."""
    path = folder / RECORD
    if not path.exists():
        return None
    return TemplateRecord(**json.loads(path.read_bytes()))
