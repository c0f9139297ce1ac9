"""Spellings of the four roles, as data sets and exports have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tuning.dialogue import Role

SPELLINGS: Final[Mapping[str, Role]] = {
    # OpenAI's chat completions and responses; Llama 3's; Anthropic's
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    # ShareGPT and what was made from it
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "function response": "tool",
    "function_result": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    # OASST
    "prompter": "user",
}
"""In lower case, without white space around."""

NAMES_TOO: Final = frozenset({"model", "developer", "bard", "bing", "ai"})
"""Of these, the ones that people are called, or their trades: so beside a person's name."""
CALLS: Final = frozenset({"function_call", "tool_call"})
"""Speakers whose text is a call, as JSON."""


def role_of(name: str, own: Mapping[str, Role]) -> Role | None:
    """Return the role that a name spells, a team's own spellings before the known ones.

    Args:
        name: A speaker or role, in any case and with white space around.
        own: ``data.roles``, in lower case.
    """
    spelled = name.strip().casefold()
    return own.get(spelled) or SPELLINGS.get(spelled) or ("assistant" if spelled in CALLS else None)
