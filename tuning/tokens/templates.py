"""All templates by name, and which one a folder's model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from transformers import PreTrainedTokenizerFast

from tuning.template_record import TemplateRecord, read_record
from tuning.tokens.plain_lines import PlainLines
from tuning.tokens.speaker_tokens import SpeakerTokens, add_dialogue_tokens
from tuning.tokens.template import Template
from tuning.tokens.tokenizer import load_tokenizer

TEMPLATES: Final = {template.name: template for template in (SpeakerTokens, PlainLines)}


def prepare(tokenizer: PreTrainedTokenizerFast, num_speakers: int) -> TemplateRecord:
    """Extend a base model's tokenizer, in place, to the template that the model is tuned with.

    Args:
        tokenizer: The base model's own.
        num_speakers: Most speakers in a dialogue.
    """
    return add_dialogue_tokens(tokenizer, num_speakers)


def make_template(name: str, tokenizer: PreTrainedTokenizerFast) -> Template:
    """Return the template of that name with a tokenizer that has its tokens."""
    return TEMPLATES[name](tokenizer)


def template_of(folder: Path) -> Template:
    """Return what a model's (or tokenizer's) folder was tuned with; plain lines if nothing says."""
    record = read_record(folder)
    return make_template(record.name if record else PlainLines.name, load_tokenizer(folder))
