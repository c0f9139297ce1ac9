"""The Modelfile has a template for Ollama where that writes what the model's own does, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chat_models import (
    CHATML,
    CLOCK,
    DEFAULT_SYSTEM,
    MERGES_SYSTEM,
    SYSTEM_LAST,
    TRIMS,
    make_chat_base,
)
from tests.gguf_models import make_family
from tools.export_gguf.modelfile import marks_of, modelfile
from tuning.tokens.templates import prepare_tokenizer
from tuning.tokens.tokenizer import load_tokenizer


def test_a_model_of_people(tmp_path: Path) -> None:
    folder = make_family(tmp_path, "qwen3", "qwen2", {"head_dim": 32})
    lines = modelfile(folder, "model.gguf").splitlines()
    assert lines[0] == "FROM ./model.gguf"
    assert lines[1] == "# System texts are left out: the model's chat template knows none."
    assert lines[2] == (
        'TEMPLATE """'
        "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        '{{ if eq .Role "user" }}<|speaker1|>{{ .Content }}<|endofturn|>'
        '{{ else if eq .Role "assistant" }}<|speaker2|>{{ .Content }}'
        "{{ if not $last }}<|endofturn|>{{ end }}{{ end }}"
        '{{ if and $last (ne .Role "assistant") }}<|speaker2|>{{ end }}{{ end }}"""'
    )
    assert lines[3:] == [
        "PARAMETER temperature 0.7",
        "PARAMETER top_p 0.9",
        'PARAMETER stop "<|endofturn|>"',
        'PARAMETER stop "<|endoftext|>"',
        'PARAMETER stop "<|speaker1|>"',
        'PARAMETER stop "<|speaker2|>"',
        'PARAMETER stop "<|pad|>"',
    ]


def test_a_system_text_that_the_template_brings_stands_where_the_chat_has_none(
    tmp_path: Path, tiny_base: Path
) -> None:
    marks = marks_of(load_tokenizer(make_chat_base(tiny_base, tmp_path, DEFAULT_SYSTEM)))
    assert marks is not None
    assert marks.without_system == "<|im_start|>system\nYou are helpful.<|im_end|>\n"
    assert marks.before["system"] == "<|im_start|>system\n"
    assert marks.after == dict.fromkeys(("user", "assistant", "system"), "<|im_end|>\n")
    assert marks.asks == "<|im_start|>assistant\n"
    start = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{marks.without_system}{{{{ end }}}}'
    assert str(marks.in_go()).startswith(start)


def test_roles_of_our_own(tmp_path: Path, tiny_base: Path) -> None:
    prepare_tokenizer(tiny_base, tmp_path, 2, has_roles=True)
    marks = marks_of(load_tokenizer(tmp_path))
    assert marks is not None
    assert marks.before == {name: f"<|{name}|>" for name in ("user", "assistant", "system")}


@pytest.mark.parametrize(
    "template",
    [
        TRIMS,
        CHATML.replace("m.content", "m.content.split('</think>')[-1]"),
        MERGES_SYSTEM,
        SYSTEM_LAST,
        CLOCK,
        CHATML.replace("<|im_end|>", '"""'),
        CHATML.replace("m.content", "m.content | upper"),
        "{{ raise_exception('no') }}",
    ],
)
def test_a_template_that_does_more_has_none(tmp_path: Path, tiny_base: Path, template: str) -> None:
    tokenizer = load_tokenizer(make_chat_base(tiny_base, tmp_path, template))
    marks = marks_of(tokenizer)
    assert marks is None or marks.in_go() is None
