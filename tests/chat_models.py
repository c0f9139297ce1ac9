"""Chat templates with the habits of real families, and a tokenizer that has their tokens."""

from __future__ import annotations

from pathlib import Path

from transformers import AddedToken

from tuning.tokens.tokenizer import load_tokenizer

MARKS = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]", "[CALL]")
"""Special tokens; ``<think>`` and its end are added ones that are not special, as Qwen has them."""

_CHATML_TURN = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
_CHATML_ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
_ALTERNATES = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
)

CHATML = "{% for m in messages %}" + _CHATML_TURN + "{% endfor %}" + _CHATML_ASK

DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}" + CHATML
)

TRIMS = (
    "{{ '<s>' }}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\\n\\n' + m.content | trim + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n\\n' }}{% endif %}"
)

THINKS = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}"
    "{% for m in messages %}{% if m.role == 'assistant' and loop.index0 > ns.last %}"
    "{{ '<|im_start|>assistant\\n<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n'"
    " + m.content + '<|im_end|>\\n' }}"
    "{% else %}" + _CHATML_TURN + "{% endif %}{% endfor %}" + _CHATML_ASK
)
"""Earlier thoughts are dropped, the last answer has one even if it is empty (Qwen 3)."""

OPENS_THOUGHT = (
    "{% for m in messages %}" + _CHATML_TURN + "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)
"""What asks for an answer opens a thought that no answer keeps (QwQ, DeepSeek R1)."""

MERGES_SYSTEM = (
    "{{ '<s>' }}{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content + '\\n\\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}" + _ALTERNATES + "{{ '<|im_start|>' + m.role + '\\n'"
    " + (first if loop.first else '') + m.content | trim + '<|im_end|>\\n' }}{% endfor %}"
    + _CHATML_ASK
)
"""The system text goes into the first user turn; roles must alternate (Gemma)."""

SYSTEM_LAST = (
    "{{ '<s>' }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m.role == 'user' %}"
    "{{ '[INST]' + (system + '\\n\\n' if loop.last and system is defined else '')"
    " + m.content + '[/INST]' }}"
    "{% elif m.tool_calls is defined %}{% for call in m.tool_calls %}"
    "{% if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
    "{{ '[CALL]' + call.function | tojson + call.id }}{% endfor %}{{ '</s>' }}"
    "{% elif m.role == 'tool' %}{{ '[CALL]' + m.tool_call_id + m.content + '[CALL]' }}"
    "{% else %}{{ m.content + '</s>' }}{% endif %}{% endfor %}"
)
"""The system text goes with the last question alone, nothing asks for an answer, and calls have
short ids (Mistral)."""

TOOLS_AS_JSON = (
    "{% if tools %}{{ '<|im_start|>system\\n' }}{% if messages[0].role == 'system' %}"
    "{{ messages[0].content + '\\n' }}{% endif %}{% for tool in tools %}{{ tool | tojson }}"
    "{% endfor %}{{ '<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{% if not (tools and loop.first and m.role == 'system') %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content }}"
    "{% for call in m.tool_calls or [] %}"
    "{{ '[CALL]' + call.function.name + ' ' + call.function.arguments | tojson }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endif %}{% endfor %}" + _CHATML_ASK
)

CALLS_AS_TEXT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.tool_calls %}{% for call in m.tool_calls %}"
    "{{ '[CALL]' + call.function.name + ' ' + call.function.arguments }}{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}" + _CHATML_ASK
)
"""A call's arguments are joined with text, so they must be text (DeepSeek V3)."""


def _with_calls(written: str) -> str:
    """A template that writes calls so, behind the text of their turn."""
    return (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + (m.content or '') }}"
        "{% if m.tool_calls %}" + written + "{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    ) + _CHATML_ASK


CALL_FORMS = {
    "hermes": _with_calls(
        "{% for call in m.tool_calls %}"
        "{{ '\\n<tool_call>\\n' + call.function | tojson + '\\n</tool_call>' }}{% endfor %}"
    ),
    "mistral": _with_calls(
        "{{ '[CALL] [' }}{% for call in m.tool_calls %}{{ {'name': call.function.name,"
        " 'arguments': call.function.arguments, 'id': call.id} | tojson }}"
        "{{ ', ' if not loop.last }}{% endfor %}{{ ']' }}"
    ),
    "llama": _with_calls(
        "{% if m.tool_calls | length > 1 %}{{ raise_exception('one call alone') }}{% endif %}"
        "{% set f = m.tool_calls[0].function %}"
        "{{ {'name': f.name, 'parameters': f.arguments} | tojson }}"
    ),
    "deepseek": _with_calls(
        "{{ '<calls>' }}{% for call in m.tool_calls %}{{ '<call>function<sep>'"
        " + call.function.name + '\\n```json\\n' + call.function.arguments + '\\n```</call>' }}"
        "{{ '\\n' if not loop.last }}{% endfor %}{{ '</calls>' }}"
    ),
    "counted": _with_calls(
        "{{ '<calls ' ~ m.tool_calls | length ~ '>' }}{% for call in m.tool_calls %}"
        "{{ call.function | tojson }}{% endfor %}"
    ),
    "xml": _with_calls(
        "{% for call in m.tool_calls %}{{ '<function=' + call.function.name + '>' }}"
        "{% for key, value in call.function.arguments.items() %}"
        "{{ '<parameter=' ~ key ~ '>' ~ value ~ '</parameter>' }}{% endfor %}"
        "{{ '</function>' }}{% endfor %}"
    ),
}
"""Templates that write calls as real families do. Of the last two, one says how many calls there
are, and the other's arguments are no JSON."""

CLOCK = (
    "{{ '<|im_start|>system\\nToday is ' + strftime_now('%d %B %Y') + '.<|im_end|>\\n' }}" + CHATML
)

HABITS = {
    "plain": CHATML,
    "default system": DEFAULT_SYSTEM,
    "trims, begins with a token": TRIMS,
    "drops thoughts": THINKS,
    "opens a thought": OPENS_THOUGHT,
    "merges system, insists on alternation": MERGES_SYSTEM,
    "system with the last question": SYSTEM_LAST,
    "tools as JSON": TOOLS_AS_JSON,
    "calls as text": CALLS_AS_TEXT,
    "reads the clock": CLOCK,
}


def make_chat_base(base: Path, folder: Path, template: str | None) -> Path:
    """Copy a base model's tokenizer, give it the marks and a chat template."""
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens(
        [AddedToken(mark, special=True, normalized=False) for mark in MARKS], special_tokens=True
    )
    tokenizer.add_tokens(
        [AddedToken(mark, special=False, normalized=False) for mark in ("<think>", "</think>")]
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder
