"""The base model's own template: what is trained is what a server feeds and expects."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from itertools import compress
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.chat_models import (
    CHATML,
    HABITS,
    THINKS,
    make_chat_base,
)
from tests.thorough import few_or_all
from tests.warm_process import warm
from tuning.dialogue import Dialogue, ToolCall, Turn, trained_turns
from tuning.run.errors import UserError
from tuning.template_record import read_record
from tuning.tokens import sandbox
from tuning.tokens.chat_template import ChatTemplate
from tuning.tokens.template import NotEncodableError, Rendering
from tuning.tokens.templates import prepare_tokenizer, template_of

ROOT = Path(__file__).parents[2]

TOOLS = '[{"type": "function", "function": {"name": "weather", "parameters": {}}}]'
CALL = ToolCall("weather", '{"city": "Oslo"}', "call_0123456789")


def system(text: str) -> Turn:
    return Turn("system", text, "system")


def user(text: str) -> Turn:
    return Turn("user", text, "user")


def assistant(text: str, **more: Any) -> Turn:
    return Turn("assistant", text, "assistant", **more)


CALLING = Dialogue(
    "c",
    (
        user("Is it cold?"),
        assistant("", tool_calls=(CALL,)),
        Turn("tool", "-3 C", "tool", tool_call_id=CALL.call_id),
        assistant("It is."),
    ),
    TOOLS,
)


class Served:
    """A base model's tokenizer as a server has it, and our template over the same folder."""

    def __init__(self, folder: Path, **variables: Any) -> None:
        self.tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(folder))
        self.template = template_of(folder, choice="chat", settings=variables)
        assert isinstance(self.template, ChatTemplate)
        self.variables = variables

    def prompt(self, messages: list[dict[str, Any]], tools: Any = None) -> list[int]:
        """The ids that transformers feeds a model that is asked for an answer."""
        ids = self.tokenizer.apply_chat_template(
            messages,
            tools=tools,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **self.variables,
        )
        return cast(list[int], ids)

    def renderings(self, dialogue: Dialogue) -> list[Rendering]:
        trained = trained_turns(dialogue.turns, "assistant")
        return self.template.read(dialogue).renderings(trained)

    def trained_texts(self, dialogue: Dialogue) -> list[str]:
        """The text of each run of targets, in order."""
        runs: list[list[int]] = []
        for rendering in self.renderings(dialogue):
            before = False
            for token_id, is_target in zip(rendering.input_ids, rendering.is_target, strict=True):
                if is_target and not before:
                    runs.append([])
                if is_target:
                    runs[-1].append(token_id)
                before = is_target
        return [str(self.tokenizer.decode(run)) for run in runs]


@pytest.fixture(scope="module")
def served(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    folder = tmp_path_factory.mktemp("chat")
    return {
        name: Served(make_chat_base(tiny_base, folder / str(number), template))
        for number, (name, template) in enumerate(HABITS.items())
    }


def made(tiny_base: Path, folder: Path, template: str | None, **variables: Any) -> Served:
    return Served(make_chat_base(tiny_base, folder / "base", template), **variables)


texts = st.text(st.characters(codec="utf-8", exclude_characters="<>[]"), max_size=30)


@st.composite
def dialogues(draw: st.DrawFn) -> Dialogue:
    """Roles that alternate, maybe behind a system text; some answers have thoughts, or no part."""
    turns = [system(draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        turns.append(user(draw(texts)))
        weight = draw(st.sampled_from([1.0, 1.0, 0.0]))
        turns.append(assistant(draw(texts), reasoning=draw(texts), weight=weight))
    return Dialogue("d", tuple(turns))


def as_messages(dialogue: Dialogue) -> list[dict[str, Any]]:
    return [
        {"role": turn.role, "content": turn.utterance}
        | ({"reasoning_content": turn.reasoning} if turn.reasoning else {})
        for turn in dialogue.turns
    ]


@pytest.mark.parametrize("habit", [name for name in HABITS if name != "reads the clock"])
@given(dialogue=dialogues())
@settings(max_examples=few_or_all(12))
def test_every_trained_turn_stands_behind_the_prompt_that_a_server_feeds(
    served: dict[str, Served], habit: str, dialogue: Dialogue
) -> None:
    one = served[habit]
    messages = as_messages(dialogue)
    renderings = one.renderings(dialogue)
    left = [(r.input_ids, r.is_target) for r in renderings]
    for number, is_trained in enumerate(trained_turns(dialogue.turns, "assistant")):
        if not is_trained:
            continue
        prompt = one.prompt(messages[:number])
        while left[0][0][: len(prompt)] != prompt or not any(left[0][1][len(prompt) :]):
            left.pop(0)
        ids, is_target = left[0]
        rest = is_target[len(prompt) :]
        length = rest.index(False) if False in rest else len(rest)
        target = ids[len(prompt) : len(prompt) + length]
        assert target[-1] in one.template.stop_ids
        assert one.template.stop_ids.isdisjoint(target[:-1])
        assert dialogue.turns[number].utterance.strip() in str(one.tokenizer.decode(target))
    num_targets = sum(sum(rendering.is_target) for rendering in renderings)
    ends = [
        token
        for rendering in renderings
        for token in compress(rendering.input_ids, rendering.is_target)
        if token in one.template.stop_ids
    ]
    assert len(ends) == sum(trained_turns(dialogue.turns, "assistant"))
    assert bool(num_targets) == bool(ends)


TWO = Dialogue(
    "t",
    (
        system("Be brief."),
        user("Hello!"),
        assistant("Hi.", reasoning="greet"),
        user("And you?"),
        assistant("Fine."),
    ),
)


def test_turns_that_stay_as_they_were_share_one_rendering(served: dict[str, Served]) -> None:
    one = served["plain"]
    assert len(one.renderings(TWO)) == 1
    assert one.trained_texts(TWO) == ["Hi.<|im_end|>", "Fine.<|im_end|>"]


def test_a_template_that_drops_earlier_thoughts_has_a_rendering_for_each_answer(
    served: dict[str, Served],
) -> None:
    one = served["drops thoughts"]
    assert len(one.renderings(TWO)) == 2
    assert one.trained_texts(TWO) == [
        "<think>\ngreet\n</think>\n\nHi.<|im_end|>",
        "<think>\n\n</think>\n\nFine.<|im_end|>",
    ]


def test_a_thought_that_the_prompt_opens_is_closed(served: dict[str, Served]) -> None:
    one = served["opens a thought"]
    assert one.trained_texts(TWO) == [
        "greet\n</think>\n\nHi.<|im_end|>",
        "\n</think>\n\nFine.<|im_end|>",
    ]


def test_a_system_text_that_goes_with_the_last_question_is_in_each_prompt(
    served: dict[str, Served],
) -> None:
    one = served["system with the last question"]
    first, second = one.renderings(TWO)
    assert one.tokenizer.decode(first.input_ids) == "<s>[INST]Be brief.\n\nHello![/INST]Hi.</s>"
    assert one.tokenizer.decode(second.input_ids) == (
        "<s>[INST]Hello![/INST]Hi.</s>[INST]Be brief.\n\nAnd you?[/INST]Fine.</s>"
    )


@pytest.mark.parametrize(
    ("habit", "written"),
    [
        ("tools as JSON", '[CALL]weather {"city": "Oslo"}<|im_end|>'),
        ("calls as text", '[CALL]weather {"city": "Oslo"}<|im_end|>'),
        (
            "system with the last question",
            '[CALL]{"name": "weather", "arguments": {"city": "Oslo"}}{id}</s>',
        ),
    ],
)
def test_calls_are_trained_in_the_form_that_the_template_takes(
    served: dict[str, Served], habit: str, written: str
) -> None:
    one = served[habit]
    call, answer = one.trained_texts(CALLING)
    messages = one.template.messages(CALLING)  # type: ignore[attr-defined]
    call_id = messages[1]["tool_calls"][0]["id"]
    assert call == written.replace("{id}", call_id)
    assert answer.startswith("It is.")
    assert messages[2]["tool_call_id"] == call_id
    assert one.template.lacks(CALLING) == ([] if habit == "tools as JSON" else ["tools"])


def test_a_call_that_the_template_does_not_write_is_named(served: dict[str, Served]) -> None:
    with pytest.raises(NotEncodableError, match="does not write its tool calls"):
        served["plain"].renderings(CALLING)


def test_a_call_behind_a_system_text_that_moves_is_asked_for_as_it_is_served(
    served: dict[str, Served],
) -> None:
    one = served["system with the last question"]
    dialogue = Dialogue("d", (system("Be brief."), *CALLING.turns))
    first, _ = one.renderings(dialogue)
    assert first.input_ids[: sum(not t for t in first.is_target)] == one.prompt(
        one.template.messages(dialogue)[:2]  # type: ignore[attr-defined]
    )
    texts = one.trained_texts(dialogue)
    assert texts[0].startswith("[CALL]") and texts[1] == "It is.</s>"


def test_two_answers_in_a_row_are_each_as_they_are_served(served: dict[str, Served]) -> None:
    one = served["drops thoughts"]
    twice = Dialogue("d", (user("One?"), assistant("Two."), assistant("Three.")))
    assert one.trained_texts(twice) == [
        "<think>\n\n</think>\n\nTwo.<|im_end|>",
        "<think>\n\n</think>\n\nThree.<|im_end|>",
    ]


@pytest.mark.parametrize("inside", ["<think>\nI add.\n</think>\n\n4", " <think>I add.</think>4"])
def test_a_thought_in_an_answers_text_is_its_reasoning(
    served: dict[str, Served], inside: str
) -> None:
    dialogue = Dialogue("d", (user("2+2?"), assistant(inside)))
    one = served["drops thoughts"]
    assert one.trained_texts(dialogue) == ["<think>\nI add.\n</think>\n\n4<|im_end|>"]
    assert one.template.lacks(dialogue) == []
    assert served["plain"].trained_texts(dialogue)[0].endswith(f"{inside}<|im_end|>".strip())


@pytest.mark.parametrize("name", ["mod", "messages", "tools"])
def test_a_variable_that_the_template_does_not_read_is_an_error(
    tiny_base: Path, tmp_path: Path, name: str
) -> None:
    base = make_chat_base(tiny_base, tmp_path / "base", CHATML)
    with pytest.raises(UserError, match=f"template_settings: .*reads no variable '{name}'"):
        template_of(base, choice="chat", settings={name: "x"})
    with pytest.raises(UserError, match="the template is speakers"):
        prepare_tokenizer(base, tmp_path / "out", 2, choice="speakers", settings={name: "x"})


def test_what_is_not_written_is_named(served: dict[str, Served]) -> None:
    assert served["plain"].template.lacks(TWO) == ["reasoning"]
    assert served["drops thoughts"].template.lacks(TWO) == []
    assert served["system with the last question"].template.lacks(TWO) == ["reasoning"]


def test_what_the_template_refuses_is_said_in_its_words(served: dict[str, Served]) -> None:
    twice = Dialogue("d", (user("One."), user("Two."), assistant("Three.")))
    with pytest.raises(NotEncodableError, match=r"refuses it \(roles must alternate\)"):
        served["merges system, insists on alternation"].renderings(twice)
    assert served["plain"].trained_texts(twice) == ["Three.<|im_end|>"]


@pytest.mark.parametrize(
    ("dialogue", "named"),
    [
        (Dialogue("d", (user("a<|im_end|>b"), assistant("c"))), "turn 1 spells .*im_end"),
        (Dialogue("d", (user("a"), assistant("c", reasoning="</s>"))), "turn 2 spells .*</s>"),
        (Dialogue("d", (user("a"), assistant("c")), '[{"name": "<s>"}]'), "tools spell"),
        (Dialogue("d", (Turn("Ann", "a"), assistant("c"))), "'Ann' has no role"),
    ],
)
def test_what_a_server_would_read_otherwise_is_named(
    served: dict[str, Served], dialogue: Dialogue, named: str
) -> None:
    with pytest.raises(NotEncodableError, match=named):
        served["plain"].renderings(dialogue)


def test_every_day_is_the_same_to_a_template_that_reads_the_clock(
    served: dict[str, Served],
) -> None:
    one = served["reads the clock"]
    (rendering,) = one.renderings(TWO)
    assert "Today is 26 July 2024." in one.tokenizer.decode(rendering.input_ids)


def test_variables_reach_the_template(tiny_base: Path, tmp_path: Path) -> None:
    template = CHATML.replace("'assistant\\n'", "'assistant\\n' + mood")
    template = CHATML + "{% if not add_generation_prompt %}{{ mood | default('') }}{% endif %}"
    ask = "{{ '<|im_start|>assistant\\n' + ('' if mood is not defined else '<' + mood + '>') }}"
    template = CHATML.replace("{{ '<|im_start|>assistant\\n' }}", ask)
    one = made(tiny_base, tmp_path, template, mood="calm")
    asked = one.prompt([{"role": "user", "content": "Hi"}])
    assert str(one.tokenizer.decode(asked)).endswith("assistant\n<calm>")


def test_a_later_window_begins_with_system_text_and_tools(served: dict[str, Served]) -> None:
    def head(habit: str, dialogue: Dialogue) -> str:
        one = served[habit]
        reading = one.template.read(dialogue)
        rendering = one.renderings(dialogue)[0]
        count = reading.num_head(rendering)
        return str(one.tokenizer.decode(rendering.input_ids[:count]))

    assert head("plain", TWO) == "<|im_start|>system\nBe brief.<|im_end|>\n"
    assert head("merges system, insists on alternation", TWO).endswith("user\nBe brief.\n\n")
    assert '"weather"' in head("tools as JSON", CALLING)
    no_system = Dialogue("d", TWO.turns[1:])
    default = "<|im_start|>system\nYou are helpful.<|im_end|>\n"
    assert head("default system", no_system) == default
    assert head("plain", no_system) == head("drops thoughts", no_system) == ""
    assert head("trims, begins with a token", no_system) == "<s>"
    assert head("system with the last question", no_system) == ""


def test_turns_begin_where_the_template_begins_them(served: dict[str, Served]) -> None:
    one = served["plain"]
    (rendering,) = one.renderings(TWO)
    starts = one.template.read(TWO).turn_starts(rendering)
    mark = one.tokenizer.convert_tokens_to_ids("<|im_start|>")
    line_ends = [i for i, token in enumerate(rendering.input_ids) if token == mark]
    assert starts == line_ends


def test_an_answer_stands_behind_any_part_of_its_history(served: dict[str, Served]) -> None:
    for habit, one in served.items():
        reading = one.template.read(TWO)
        whole = reading.after(range(4), 4)
        asked = one.prompt(as_messages(TWO)[:4])
        if habit != "reads the clock":
            assert whole.prompt == asked
        for history in ([], [3], [2, 3], [0, 3], [3, 1, 2, 0]):
            place = reading.after(history, 4)
            assert place.turn.end[0] in one.template.stop_ids
            assert "Fine." in str(one.tokenizer.decode(place.turn.content))
            assert len(place.prompt) >= 1


TOO_LARGE = r"takes more than 0\.1 GB of memory"


def doubling(value: str) -> str:
    """A template that adds a value to itself again and again."""
    again = "{% for i in range(60) %}{% set all.x = all.x + all.x %}{% endfor %}"
    return f"{{% set all = namespace(x={value}) %}}{again}"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('no') }}", "fails: the chat template refuses it"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "no special token ends an answer"),
        ("{% if x %}", "fails"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "took more than 1 s",
        ),
        ("{{ 'a' * 10**10 }}", TOO_LARGE),
        ("{{ 'a'|center(10**10) }}", TOO_LARGE),
        ("{{ 'a'.ljust(10**10) }}", TOO_LARGE),
        ("{{ '%10000000000d' % 1 }}", TOO_LARGE),
        ("{{ '{:>10000000000}'.format(1) }}", TOO_LARGE),
        ("{{ ('a' * 10**5).replace('a', 'b' * 10**6) }}", TOO_LARGE),
        ("{{ (['b' * 10**6] * 10**4)|join }}", TOO_LARGE),
        (doubling("'a'"), TOO_LARGE),
        (doubling("[1]"), TOO_LARGE),
    ],
)
def test_a_base_that_cannot_be_asked_is_an_error_with_a_way_out(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    template: str | None,
    why: str,
) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 1 if "took" in why else 60)
    monkeypatch.setattr(sandbox, "MAX_BYTES", 10**8)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    folder = make_chat_base(tiny_base, tmp_path / "base", template)
    with pytest.raises(UserError, match=why) as error:
        template_of(folder, choice="chat")
    assert "encoding.template" in str(error.value)
    assert resource.getrlimit(resource.RLIMIT_AS) == limits


def test_a_template_that_python_cannot_stop_ends_the_process(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Within one operation no signal of Python's arrives."""
    lines = [
        "from pathlib import Path",
        "from tuning.tokens import sandbox",
        "from tuning.tokens.templates import template_of",
        "sandbox.MAX_SECONDS = 1",
        "template_of(Path('base'), choice='chat')",
    ]
    make_chat_base(tiny_base, tmp_path / "base", "{{ 9 ** (9 ** 9) }}")
    run = subprocess.run(
        [warm("python"), "-c", "\n".join(lines)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert run.returncode in (-signal.SIGVTALRM, 128 + signal.SIGVTALRM)


def test_a_pipe_is_no_template(tiny_base: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jinja")
    with pytest.raises(UserError, match=r"pipe\.jinja: wanted a file to read, found a pipe"):
        template_of(tiny_base, choice=str(tmp_path / "pipe.jinja"))


@pytest.mark.parametrize(
    ("choice", "has_roles", "template", "chosen"),
    [
        ("auto", True, CHATML, "chat"),
        ("auto", False, CHATML, "speakers"),
        ("auto", True, None, "speakers"),
        ("speakers", True, CHATML, "speakers"),
        ("chat", False, CHATML, "chat"),
    ],
)
def test_auto_takes_the_models_own_template_for_roles(
    tiny_base: Path, tmp_path: Path, choice: Any, has_roles: bool, template: str, chosen: str
) -> None:
    base = make_chat_base(tiny_base, tmp_path / "base", template)
    made_one = prepare_tokenizer(base, tmp_path / "out", 2, choice=choice, has_roles=has_roles)
    record = read_record(tmp_path / "out")
    assert record is not None and made_one.name == record.name == chosen
    of_base = template_of(base, choice=choice, has_roles=has_roles)
    assert of_base.name == (chosen if chosen == "chat" else "plain")


def test_under_chat_the_tokenizer_stays_as_it_is(tiny_base: Path, tmp_path: Path) -> None:
    template_text = THINKS + "{% if mood is defined %}{% endif %}"
    base = make_chat_base(tiny_base, tmp_path / "base", template_text)
    (base / "generation_config.json").write_text('{"eos_token_id": [0, 3]}', encoding="utf-8")
    template = prepare_tokenizer(
        base, tmp_path / "out", 2, choice="chat", settings={"mood": "calm"}, has_roles=True
    )
    for file in (tmp_path / "out").iterdir():
        if file.name != "template.json":
            assert file.read_bytes() == (base / file.name).read_bytes()
    assert (tmp_path / "out" / "chat_template.jinja").exists()
    record = read_record(tmp_path / "out")
    assert record is not None
    assert record.new_rows == []
    assert record.stop_ids == [*template.end, 0, 3]
    assert record.settings == {"mood": "calm"}
    again = template_of(tmp_path / "out")
    assert isinstance(again, ChatTemplate)
    assert again.settings == {"mood": "calm"}


def test_texts_that_are_encoded_part_by_part_are_what_one_go_gives(
    served: dict[str, Served],
) -> None:
    for one in served.values():
        assert isinstance(one.template, ChatTemplate)
        ids = one.template.asking.ids
        for text in ("<s>a<|im_end|>\n b", "<think>x</think>", "", "<|im_end|><|im_end|>", " a "):
            assert ids(text) == ids.whole(text)


def test_a_tokenizer_whose_parts_depend_on_each_other_is_read_in_one_go(
    tiny_base: Path, tmp_path: Path
) -> None:
    one = made(tiny_base, tmp_path, CHATML)
    template = one.template
    assert isinstance(template, ChatTemplate)
    template.asking.ids._parts["user\nHello!"] = [1, 2, 3]  # what a part would wrongly be
    prompt = one.prompt(as_messages(TWO)[:4])
    (rendering,) = one.renderings(TWO)
    assert rendering.input_ids[: len(prompt)] == prompt
    assert not template.asking.ids.in_parts


def test_thoughts_are_no_part_of_what_is_said(served: dict[str, Served]) -> None:
    one = served["drops thoughts"]
    for text in ("<think>\n\n</think>\n\nFine.", "greet\n</think>\n\nFine.", "Fine."):
        assert one.template.text_of(one.template.asking.ids(text)) == "Fine."  # type: ignore[attr-defined]
