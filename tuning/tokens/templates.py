"""All templates by name, and the choice of the one that a folder's model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from transformers import PreTrainedTokenizerFast

from tuning.template_record import read_record, write_record
from tuning.tokens.plain_lines import PlainLines
from tuning.tokens.speaker_tokens import SpeakerTokens, add_dialogue_tokens
from tuning.tokens.template import Template
from tuning.tokens.tokenizer import load_tokenizer

TEMPLATES: Final = {template.name: template for template in (SpeakerTokens, PlainLines)}


def extend_tokenizer(
    base: Path, folder: Path, num_speakers: int, *, has_roles: bool = False
) -> Template:
    """Write a base model's tokenizer, extended to the template that the model is tuned with.

    Args:
        base: The base model's folder.
        folder: Gets the tokenizer and the template's record.
        num_speakers: Most people in a dialogue, who are no role.
        has_roles: Whether the data has roles.
    """
    tokenizer = load_tokenizer(base)
    record = add_dialogue_tokens(tokenizer, num_speakers, has_roles=has_roles)
    tokenizer.save_pretrained(folder)
    write_record(folder, record)
    return make_template(record.name, tokenizer)


def make_template(name: str, tokenizer: PreTrainedTokenizerFast) -> Template:
    """Return the template of that name with a tokenizer that has its tokens."""
    return TEMPLATES[name](tokenizer)


def template_of(folder: Path) -> Template:
    """Return the template of a model's (or tokenizer's) folder; plain lines if it records none."""
    record = read_record(folder)
    return make_template(record.name if record else PlainLines.name, load_tokenizer(folder))
