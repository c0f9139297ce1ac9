"""All templates by name, and the choice of the one that a model is tuned with or reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from transformers import PreTrainedTokenizerFast

from tuning.dialogue import Dialogue, trained_turns
from tuning.run.errors import UserError, first_line
from tuning.run.files import raise_if_no_file, write_json, write_text
from tuning.template_record import TemplateRecord, read_record, write_record
from tuning.tokens.chat_template import ChatTemplate
from tuning.tokens.plain_lines import PlainLines
from tuning.tokens.sandbox import Setting
from tuning.tokens.speaker_tokens import SpeakerTokens, add_dialogue_tokens
from tuning.tokens.template import NotEncodableError, Template
from tuning.tokens.texts import gives_back
from tuning.tokens.tokenizer import load_tokenizer

CHOICES: Final = ("auto", "speakers", "chat")
"""``encoding.template``; or the path of a file that holds a chat template."""

TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
)
OWN_TEMPLATE: Final = "chat_template.jinja"
"""The file of a tokenizer's folder that transformers takes before all others."""

_CHAT_USAGE = """\
It answers as the assistant in {whose} chat template: `system`, `user`, `assistant` and `tool`
messages, `tools` and tool calls go in as that template takes them.

Generation ends at `{stop}`. Text that spells a special token becomes that token: remove it from
what users type.
"""


def file_of(choice: str) -> str:
    """Return the path of the chat template that was asked for; empty where none was."""
    return "" if choice in CHOICES else choice


def choose(choice: str, tokenizer: PreTrainedTokenizerFast, *, has_roles: bool) -> str:
    """Return the name of the template that a model with this tokenizer is tuned with.

    ``auto`` takes the base model's own where the data has roles and the base a template.
    """
    if file_of(choice):
        return ChatTemplate.name
    if choice != "auto":
        return choice
    is_chat = has_roles and tokenizer.chat_template
    return ChatTemplate.name if is_chat else SpeakerTokens.name


def prepare_tokenizer(
    base: Path,
    folder: Path,
    num_speakers: int,
    *,
    choice: str = "speakers",
    settings: Mapping[str, Setting] | None = None,
    has_roles: bool = False,
) -> Template:
    """Write a base model's tokenizer as the template wants it that the model is tuned with.

    Args:
        base: The base model's folder.
        folder: Gets the tokenizer and the template's record.
        num_speakers: Most people in a dialogue, who are no role.
        choice: The template that was asked for.
        settings: Variables of a chat template.
        has_roles: Whether the data has roles.

    Raises:
        UserError: the base model has no chat template, or one that cannot be used; the file that
            was asked for is not there.
    """
    tokenizer = _load_for(base, choice)
    file = file_of(choice)
    if choose(choice, tokenizer, has_roles=has_roles) == ChatTemplate.name:
        template = ChatTemplate(tokenizer, settings, file)
        whose = "a" if file else "its base model's own"
        record = _chat_record(template, base, whose)
        folder.mkdir(exist_ok=True)
        for path in sorted(base.iterdir()):
            if any(fnmatch(path.name, pattern) for pattern in TOKENIZER_FILES):
                shutil.copyfile(path, folder / path.name)
        if file:
            _set_template(folder, str(tokenizer.chat_template))
    elif settings:
        raise UserError(
            f"encoding.template_settings: {', '.join(settings)} would be variables of the base "
            "model's own chat template, and the template is speakers; set encoding.template to "
            "chat, or template_settings to {}."
        )
    else:
        record = add_dialogue_tokens(tokenizer, num_speakers, has_roles=has_roles)
        tokenizer.save_pretrained(folder)
    write_record(folder, record)
    return make_template(record.name, tokenizer, record.settings)


def make_template(
    name: str, tokenizer: PreTrainedTokenizerFast, settings: Mapping[str, Any] | None = None
) -> Template:
    """Return the template of that name with a tokenizer that has its tokens."""
    if name == ChatTemplate.name:
        return ChatTemplate(tokenizer, settings)
    return {one.name: one for one in (SpeakerTokens, PlainLines)}[name](tokenizer)


def template_of(
    folder: Path,
    *,
    choice: str = "speakers",
    settings: Mapping[str, Setting] | None = None,
    has_roles: bool = False,
) -> Template:
    """Return the template of a model's (or tokenizer's) folder.

    A folder that records none is a base model's: it reads its own chat template, where models are
    tuned in that, and else plain lines.
    """
    if record := read_record(folder):
        return make_template(record.name, load_tokenizer(folder), record.settings)
    tokenizer = _load_for(folder, choice)
    if choose(choice, tokenizer, has_roles=has_roles) == ChatTemplate.name:
        return ChatTemplate(tokenizer, settings, file_of(choice))
    return PlainLines(tokenizer)


def is_encodable(template: Template, dialogue: Dialogue, *, loss_on: str | Sequence[str]) -> bool:
    """Tell whether template and tokenizer take a dialogue as it is, as encode finds it."""
    try:
        template.read(dialogue).renderings(
            trained_turns(dialogue.turns, dialogue.loss_on or loss_on)
        )
    except NotEncodableError:
        return False
    return gives_back(template.tokenizer, dialogue)


def _load_for(base: Path, choice: str) -> PreTrainedTokenizerFast:
    """Load a base model's tokenizer, with the chat template of a file if one was asked for."""
    tokenizer = load_tokenizer(base)
    if file := file_of(choice):
        tokenizer.chat_template = _template_in(file)
    return tokenizer


def _template_in(path: str) -> str:
    raise_if_no_file(Path(path))
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"encoding.template: {path} cannot be read: {first_line(error)}. Put a chat template "
            f"there, or set one of {', '.join(CHOICES)}."
        ) from None


def _set_template(folder: Path, text: str) -> None:
    """Make a tokenizer's folder hold this chat template, and no other."""
    for file in folder.glob("chat_template*"):
        file.unlink()
    config = folder / "tokenizer_config.json"
    if config.exists():
        names = json.loads(config.read_bytes())
        names.pop("chat_template", None)
        write_json(config, names)
    write_text(folder / OWN_TEMPLATE, text)


def _chat_record(template: ChatTemplate, base: Path, whose: str) -> TemplateRecord:
    """Record what generation stops at: the template's own token, then those that the base names."""
    tokenizer = template.tokenizer
    path = base / "generation_config.json"
    config = json.loads(path.read_bytes()) if path.exists() else {}
    named = config.get("eos_token_id")
    others = named if isinstance(named, list) else [] if named is None else [named]
    pad = tokenizer.pad_token_id
    (stop_id,) = template.end
    stop = str(tokenizer.convert_ids_to_tokens(stop_id))
    return TemplateRecord(
        name=template.name,
        num_base_tokens=len(tokenizer),
        new_rows=[],
        stop_ids=list(dict.fromkeys([stop_id, *others])),
        pad_id=pad if isinstance(pad, int) else stop_id,
        usage=_CHAT_USAGE.format(stop=stop, whose=whose),
        settings=template.settings,
    )
