"""Parity: the token ids that an engine is fed for a dialogue's prompts, against those of training.

Each engine gets the messages that a client would send for a trained turn, reads the chat template
and the tokenizer of the model's folder in its own way, and must end up at the same ids.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedTokenizerFast

from tuning.dialogue import read_dialogues
from tuning.release import llama_cpp, transformers_serve
from tuning.release.gguf_tokenizer import write_vocabulary
from tuning.release.prompts import Prompt, prompts_of, sample_of
from tuning.run.errors import UserError
from tuning.run.visible import as_name
from tuning.template_record import read_record
from tuning.tokens.chat_template import ChatTemplate
from tuning.tokens.template import Template
from tuning.tokens.templates import template_of
from tuning.tokens.tokenizer import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A way from messages to token ids that is not ours."""

    name: str
    version: str | None
    """None where it is not installed."""
    feed: Callable[[Path, Sequence[Mapping[str, Any]]], list[list[int] | str] | str]
    """Given a model's folder and bodies: the ids of each, or why there are none; or for none."""
    left_out: Callable[[Mapping[str, Any]], list[str]]
    """Names the parts of a body that it is known to leave out."""
    reads_otherwise: bool
    """Whether template and tokenizer are read by an implementation of its own, and not by that of
    training: then what differs is a lack of the engine, and not of the model."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One engine's prompts."""

    engine: Engine
    num_equal: int
    not_equal: dict[str, int]
    """Reasons that lie in the engine, each with a number of prompts."""
    firsts: dict[str, str]
    """The first prompt of each of these reasons."""
    differences: list[str]
    """One line per prompt whose ids are others, for no such reason."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """All engines' prompts of one model."""

    validation: Path
    """The file of dialogues."""
    chat_template: str
    """The model's."""
    num_dialogues: int
    prompts: list[Prompt]
    compared: list[Compared]

    @property
    def differences(self) -> list[str]:
        """The first difference of each engine, with how many there are."""
        return [
            f"prompts as {each.engine.name} {each.engine.version} is fed them: "
            f"{len(each.differences)} of {len(self.prompts)} are not those of training. "
            f"{each.differences[0]}"
            for each in self.compared
            if each.differences
        ]

    @property
    def lacks(self) -> list[str]:
        """A line per engine and reason that keeps its prompts from being equal."""
        return [
            f"{each.engine.name}: {why}. {first}"
            for each in self.compared
            for why, first in each.firsts.items()
        ]

    def __str__(self) -> str:
        """What was compared, in one line."""
        engines = ", ".join(self._of_engine(each) for each in self.compared)
        return f"prompts of {self.num_dialogues} dialogues: {engines}"

    def _of_engine(self, each: Compared) -> str:
        name = f"{each.engine.name} {each.engine.version or ''}".rstrip()
        why = "; ".join(f"{count} not: {w}" for w, count in each.not_equal.items())
        return f"{name} {each.num_equal} of {len(self.prompts)}" + f" ({why})" * bool(why)

    def record(self) -> dict[str, Any]:
        """What a receipt says of it."""
        ids = json.dumps([[one.dialogue_id, one.turn, one.ids] for one in self.prompts])
        return {
            "dialogues": self.validation.as_posix(),
            "chat_template_sha256": hashlib.sha256(self.chat_template.encode()).hexdigest(),
            "num_dialogues": self.num_dialogues,
            "num_prompts": len(self.prompts),
            "ids_sha256": hashlib.sha256(ids.encode()).hexdigest(),
            "engines": {
                each.engine.name: {
                    "version": each.engine.version,
                    "num_equal": each.num_equal,
                    "not_equal": each.not_equal,
                }
                for each in self.compared
            },
        }


def engines() -> list[Engine]:
    """Return what prompts are compared with."""
    return [
        Engine(
            name="transformers serve",
            version=transformers.__version__,
            feed=transformers_serve.feed,
            left_out=transformers_serve.left_out,
            reads_otherwise=False,
        ),
        Engine(
            name="llama.cpp",
            version=llama_cpp.package_version(),
            feed=_llama_cpp_feed,
            left_out=lambda _body: [],
            reads_otherwise=True,
        ),
    ]


def parity(
    model: Path, template: Template, validation: Path, *, loss_on: str | Sequence[str]
) -> Parity:
    """Compare what engines are fed from a model's folder with what a template gives.

    Args:
        model: Folder with the tokenizer and the chat template that engines read.
        template: The one of training.
        validation: Dialogues, one ``to_line`` per line.
        loss_on: Which turns are trained.
    """
    dialogues = sample_of(read_dialogues(validation))
    prompts = [one for each in dialogues for one in prompts_of(template, each, loss_on)]
    compared = [compare(engine, model, template, prompts) for engine in engines()]
    return Parity(
        validation=validation,
        chat_template=str(load_tokenizer(model).chat_template),
        num_dialogues=len({one.dialogue_id for one in prompts}),
        prompts=prompts,
        compared=compared,
    )


def template_of_training(base: Path, trained: Path, choice: str) -> Template:
    """Return the template that a model was trained in, a chat template from where encode had it.

    Args:
        base: The base model's folder.
        trained: The trained model's.
        choice: ``encoding.template``.
    """
    record = read_record(trained)
    if record is not None and record.name == ChatTemplate.name:
        return template_of(base, choice=choice, settings=record.settings, has_roles=True)
    return template_of(trained)


def check_parity(found: Parity, trained: Path) -> None:
    """Raise ``UserError`` if an engine is fed other ids than those of training."""
    if found.differences:
        raise UserError(
            "\n".join(found.differences) + f"\nWhat is served would not be what was trained: look "
            f"at tokenizer and chat template in {trained}, get them again with dvc checkout "
            f"--force {trained}, or train anew with dvc repro -f train."
        )


def _llama_cpp_feed(
    model: Path, bodies: Sequence[Mapping[str, Any]]
) -> list[list[int] | str] | str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocabulary.gguf"
        try:
            write_vocabulary(load_tokenizer(model), model, file)
        except UserError:
            return "no export of its tokenizer"
        return llama_cpp.feed(file, bodies)


def compare(engine: Engine, model: Path, template: Template, prompts: list[Prompt]) -> Compared:
    """Ask an engine what it feeds the model of a folder for each prompt."""
    not_equal: Counter[str] = Counter()
    firsts: dict[str, str] = {}
    differences: list[str] = []
    fed: list[list[int] | str] | str = "it is not installed"
    if engine.version is not None:
        fed = engine.feed(model, [one.body for one in prompts])
    if isinstance(fed, str):
        not_equal[fed] = len(prompts)
    else:
        for one, found in zip(prompts, fed, strict=True):
            if found == one.ids:
                continue
            place = _place(template.tokenizer, one, found)
            if why := _lack(engine, template, one, found):
                not_equal[why] += 1
                firsts.setdefault(why, place)
            else:
                differences.append(f"{place}: {found}" if isinstance(found, str) else place)
    return Compared(
        engine=engine,
        num_equal=len(prompts) - not_equal.total() - len(differences),
        not_equal=dict(sorted(not_equal.items())),
        firsts=firsts,
        differences=differences,
    )


def _lack(engine: Engine, template: Template, prompt: Prompt, found: list[int] | str) -> str | None:
    """Return why an engine cannot be fed the same ids, or None if it should be."""
    tokenizer = template.tokenizer
    if not prompt.is_plain:
        return "texts spell special tokens"
    if "strftime_now" in str(tokenizer.chat_template):
        return "the template reads the clock"
    if lacks := engine.left_out(prompt.body):
        return f"it leaves out {', '.join(lacks)}"
    if isinstance(found, str):  # transformers makes objects of calls that a template joins as text
        has_calls = any("tool_calls" in message for message in prompt.body["messages"])
        return found if engine.reads_otherwise or has_calls else None
    if not engine.reads_otherwise:
        return None
    if _decoded(tokenizer, found) != _decoded(tokenizer, prompt.ids):
        return "it writes another text"
    return "it cuts the text into other tokens"


def _place(tokenizer: PreTrainedTokenizerFast, prompt: Prompt, found: list[int] | str) -> str:
    where = f"The first: dialogue {as_name(prompt.dialogue_id)}, turn {prompt.turn}"
    if isinstance(found, str):
        return where
    pairs = enumerate(zip_longest(found, prompt.ids), start=1)
    place, both = next((place, both) for place, both in pairs if both[0] != both[1])
    fed, trained = (
        "none" if id_ is None else f"{id_} ({_decoded(tokenizer, [id_])!r})" for id_ in both
    )
    return f"{where}, token {place} is {fed}, and in training {trained}"


def _decoded(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return str(tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False))
