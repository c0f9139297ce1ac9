"""A model in its own chat template, from encode to what it writes: as a server would have it."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from stages.encode import encode
from tests.chat_models import CHATML, MERGES_SYSTEM, THINKS, make_chat_base
from tests.corpora import encoding_params
from tests.scored_models import uniform_model
from tests.tiny_model import enlarged
from tools.chat import Partner, load_partners, talk
from tools.show import as_text
from tuning.dialogue import ROLES, Dialogue, ToolCall, Turn, to_line
from tuning.encoding.preview import show_dialogue
from tuning.evaluation_set.amounts import PROFILES
from tuning.evaluation_set.places import choose_places
from tuning.evaluation_set.plan import Plan
from tuning.evaluation_set.text import cut_evaluation_set
from tuning.run.errors import UserError
from tuning.run.visible import visible_characters
from tuning.scoring.context_turns import measure_context_turns
from tuning.scoring.history import score_histories
from tuning.scoring.measure import Subject
from tuning.scoring.nats import score
from tuning.scoring.perplexity import measure_responses, score_responses
from tuning.scoring.recall import score_recall
from tuning.scoring.written import plan_places
from tuning.tokens.speaker_tokens import SpeakerTokens, add_dialogue_tokens
from tuning.tokens.template import Template
from tuning.tokens.templates import prepare_tokenizer, template_of
from tuning.tokens.texts import encode_texts
from tuning.tokens.tokenizer import load_tokenizer
from tuning.training.publishing import publish
from tuning.training.start import load_for_training
from tuning.windows import read_windows
from tuning.writing.continuing import plan_continuations
from tuning.writing.decoding import GREEDY, write_replies


def turn(role: Any, text: str, **more: Any) -> Turn:
    return Turn(role, text, role, **more)


def dialogue(number: int) -> Dialogue:
    return Dialogue(
        f"d{number}",
        (
            turn("system", "Be brief."),
            turn("user", f"Do you like {number}?"),
            turn("assistant", f"I do like {number}.", reasoning="it is a number"),
            turn("user", "What is it about?"),
            turn("assistant", "the sea"),
        ),
    )


DIALOGUES = [dialogue(number) for number in range(6)]


def make_base(tiny_base: Path, folder: Path, template: str) -> Path:
    """A tiny model whose tokenizer has the marks, with a row for each."""
    base = make_chat_base(tiny_base, folder, template)
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        size = len(AutoTokenizer.from_pretrained(base))
        model.resize_token_embeddings(size, mean_resizing=False)
    enlarged(model).save_pretrained(base)
    return base


@pytest.fixture(scope="module", params=["plain", "thinks", "strict"])
def base(request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: Any) -> Path:
    template = {"plain": CHATML, "thinks": THINKS, "strict": MERGES_SYSTEM}[request.param]
    return make_base(tiny_base, tmp_path_factory.mktemp("base") / request.param, template)


@pytest.fixture(scope="module")
def template(base: Path) -> Template:
    return template_of(base, choice="chat", has_roles=True)


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def evaluation_set() -> list[Dialogue]:
    cut, _ = cut_evaluation_set(
        DIALOGUES, max_dialogues=None, max_turns=16, max_bytes=3000, loss_on="auto"
    )
    return cut


def served_prompt(base: Path, one: Dialogue, number: int) -> list[int]:
    tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(base))
    messages = [
        {"role": said.role, "content": said.utterance}
        | ({"reasoning_content": said.reasoning} if said.reasoning else {})
        for said in one.turns[:number]
    ]
    ids = tokenizer.apply_chat_template(
        cast(Any, messages), add_generation_prompt=True, return_dict=False
    )
    return cast(list[int], ids)


@torch.no_grad()
def nats_behind(model: Any, prompt: list[int], target: list[int]) -> list[float]:
    logits = model(torch.tensor([[*prompt, *target]])).logits[0].double()
    log_probabilities = logits.log_softmax(-1)
    return [
        -float(log_probabilities[len(prompt) + place - 1, token])
        for place, token in enumerate(target)
    ]


def test_an_answers_nats_are_those_behind_what_a_server_feeds(
    base: Path, template: Template, model: Any
) -> None:
    dialogues = evaluation_set()
    scores = score(model, score_responses(template, dialogues), batch_size=4)
    assert scores.turn.tolist() == [2, 4] * len(dialogues)
    assert {ROLES[role] for role in scores.role} == {"assistant"}
    for row, (index, number) in enumerate(zip(scores.dialogue, scores.turn, strict=True)):
        place = template.read(dialogues[index]).after(range(number), number)
        assert place.prompt == served_prompt(base, dialogues[index], number)
        target = [*place.turn.content, *place.turn.end]
        nats = nats_behind(model, place.prompt, target)
        assert scores.content_nll[row] == pytest.approx(sum(nats[:-1]), rel=1e-4)
        assert scores.end_nll[row] == pytest.approx(nats[-1], rel=1e-4)
        assert scores.num_bytes[row] == len(dialogues[index].turns[number].utterance)


def subject_of(template: Template, dialogues: list[Dialogue]) -> Subject:
    return Subject(
        name="base",
        template=template,
        num_visible=1024,
        plan=Plan(dialogues, 0, [], [], [], []),
        amounts=PROFILES["smoke"],
    )


def test_the_other_roles_are_no_responses_and_the_figure_has_the_roles_name(
    template: Template, model: Any
) -> None:
    dialogues = evaluation_set()
    subject = subject_of(template, dialogues)
    found = score(model, measure_responses(subject), batch_size=4)
    named = [name for name in found.figures if name.startswith("bits_per_byte_")]
    assert named == ["bits_per_byte_assistant"]
    assert found.columns["num_responses"].tolist() == [2] * len(dialogues)


def test_turns_that_are_context_are_measured_apart_where_the_template_writes_them(
    base: Path, template: Template, model: Any
) -> None:
    """The second question of each; the first stands behind a system text, which is first."""
    dialogues = evaluation_set()
    subject = subject_of(template, dialogues)
    figures = score(model, measure_context_turns(subject), batch_size=4).figures
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    bits = num_bytes = 0.0
    for one in dialogues:
        for number in (1, 3):
            said = [{"role": t.role, "content": t.utterance} for t in one.turns[: number + 1]]
            written = tokenizer.apply_chat_template(said, tokenize=False)
            own = one.turns[number].utterance
            before = written[: written.rindex(own)]
            ids, text_ids = (
                tokenizer(text, add_special_tokens=False).input_ids for text in (before, own)
            )
            bits += sum(nats_behind(model, ids, text_ids)) / math.log(2)
            num_bytes += len(own.encode())
    assert figures == {"bits_per_byte_context_user": pytest.approx(bits / num_bytes, rel=1e-4)}


def test_people_who_are_not_trained_are_context_too(tiny_base: Path) -> None:
    tokenizer = load_tokenizer(tiny_base)
    add_dialogue_tokens(tokenizer, 2)
    turns = tuple(Turn("ab"[n % 2], f"number {n}", weight=n % 2) for n in range(6))
    subject = subject_of(SpeakerTokens(tokenizer), [Dialogue("d", turns)])
    found = score(uniform_model(tiny_base), measure_context_turns(subject), batch_size=4)
    texts = [turns[n].utterance for n in (2, 4)]
    num_tokens = sum(map(len, encode_texts(tokenizer, texts)))
    bits = num_tokens * math.log2(len(tokenizer)) / sum(map(len, texts))
    assert found.figures == {"bits_per_byte_context_people": pytest.approx(bits, rel=1e-4)}


def test_histories_and_planted_facts_are_measured_in_any_template(
    template: Template, model: Any
) -> None:
    """Also where a part of the history is refused, as one that begins with an answer is."""
    histories = score(
        model, score_histories(template, evaluation_set(), num_responses=4), batch_size=4
    )
    assert histories.nll.shape == (4, 5)
    assert np.isfinite(histories.nll).all()
    assert (histories.nll > 0).all()
    long = Dialogue(
        "long",
        (
            *dialogue(1).turns[1:3],
            *(turn(("user", "assistant")[n % 2], f"word {n}") for n in range(12)),
        ),
    )
    items = score(model, score_recall(template, [long], facts_per_type=1), batch_size=4)
    assert set(items.distance.tolist()) == {0, 2, 4, 8}


def test_a_model_writes_behind_what_a_server_feeds(
    base: Path, template: Template, model: Any
) -> None:
    dialogues = evaluation_set()
    places = choose_places(dialogues, prompt_turns=1, num_places=12)
    assert {place.turn for place in places} == {2, 4}
    requests = plan_places(template, dialogues, places, [])
    for place, request in zip(places, requests, strict=True):
        seen = [*request.context[: request.length], *request.tags[0]]
        assert seen == served_prompt(base, dialogues[place.dialogue], place.turn)
    replies = write_replies(model, template, requests[:4], max_new_tokens=6, batch_size=2)
    for request, (reply,) in zip(requests[:4], replies, strict=True):
        prompt = torch.tensor([[*request.context[: request.length], *request.tags[0]]])
        whole = model.generate(
            prompt, max_new_tokens=6, do_sample=False, eos_token_id=list(template.stop_ids)
        )
        own = whole[0, prompt.shape[1] :].tolist()[: len(reply.ids)]
        assert list(reply.ids) == own


def test_the_assistant_gives_one_answer_and_asks_nothing(template: Template) -> None:
    plans = plan_continuations(
        template,
        evaluation_set(),
        num_samples=2,
        prompt_turns=3,
        reply_turns=8,
        sampling=GREEDY,
    )
    assert [(plan.prompt_turns, plan.speakers) for plan in plans] == [(4, ("assistant",))] * 2


def encoded(
    folder: Path, base: Path, dialogues: list[Dialogue], *, skips: bool = False, **changes: Any
) -> tuple[dict[str, Any], Path]:
    prepared, out = folder / "prepared", folder / "encoded"
    prepared.mkdir(parents=True)
    out.mkdir()
    for part in ("train", "val", "dropped"):
        kept = dialogues if part == "train" else dialogues[:1]
        lines = "" if part == "dropped" else "".join(f"{to_line(one)}\n" for one in kept)
        (prepared / f"{part}.jsonl").write_text(lines, encoding="utf-8")
    settings = encoding_params(**{"template": "auto", "loss_on": "auto", **changes})
    ledger = encode(prepared, base, out, settings, 0, has_roles=True, skips_invalid=skips)
    return ledger, out


def test_last_is_the_last_answer_where_a_user_has_the_last_word(base: Path, tmp_path: Path) -> None:
    dialogues = [
        replace(one, turns=(*one.turns, turn("user", "Thanks!"))) if number % 2 else one
        for number, one in enumerate(DIALOGUES)
    ]
    ledger, folder = encoded(tmp_path, base, dialogues, loss_on="last")
    assert ledger["num_turns"]["trained"] == {"assistant": len(dialogues)}
    windows = read_windows(folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    trained = tokenizer.decode(windows.input_ids[windows.is_target].tolist())
    assert trained.count("the sea<|im_end|>") == trained.count("<|im_end|>") == len(dialogues)


def test_windows_hold_prompts_and_answers_as_they_are_served(base: Path, tmp_path: Path) -> None:
    ledger, folder = encoded(tmp_path, base, DIALOGUES)
    windows = read_windows(folder)
    trained: list[list[int]] = []
    starts = windows.window_starts.tolist()
    for start, stop in zip(starts, starts[1:], strict=False):
        ids = windows.input_ids[start:stop].tolist()
        is_target = windows.is_target[start:stop].tolist()
        runs = [n for n, one in enumerate(is_target) if one and not is_target[n - 1]]
        for begin in runs:
            rest = is_target[begin:]
            trained.append(ids[: begin + (rest.index(False) if False in rest else len(rest))])
    prompts = [served_prompt(base, one, number) for one in DIALOGUES for number in (2, 4)]
    assert len(trained) == len(prompts)
    for ids, prompt in zip(trained, prompts, strict=True):
        assert ids[: len(prompt)] == prompt
    tokens = ledger["num_tokens"]
    assert tokens["trained"] == int(windows.is_target.sum())
    buckets = [count for name, count in tokens.items() if name != "input"]
    assert sum(buckets) == tokens["input"]
    assert ledger["num_turns"] == {
        "trained": {"assistant": 12},
        "context": {"system": 6, "user": 12},
    }
    is_rewritten = "think" in (base / "chat_template.jinja").read_text()
    assert ledger["num_unrolled_dialogues"] == (6 if is_rewritten else 0)


def test_a_thought_in_an_answers_text_is_encoded_with_it(base: Path, tmp_path: Path) -> None:
    thinking = Dialogue(
        "t", (turn("user", "2+2?"), turn("assistant", "<think>\nI add.\n</think>\n\n4"))
    )
    ledger, folder = encoded(tmp_path, base, [*DIALOGUES, thinking])
    assert ledger["num_not_encodable"] == {"train": 0, "validation": 0}
    ids = read_windows(folder).input_ids.tolist()
    assert "<think>\nI add.\n</think>\n\n4<|im_end|>" in str(
        AutoTokenizer.from_pretrained(base).decode(ids)
    )


def test_encode_says_the_template_and_what_is_trained(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoded(tmp_path, base, DIALOGUES)
    assert capsys.readouterr().out.startswith(
        "encode: template chat; trained are turns of: assistant (12); context are those of: "
        "system (6), user (12)\n"
    )


def test_nobody_but_the_assistant_can_be_trained_in_a_chat_template(
    base: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"would train the turns of user too.*Set it to auto"):
        encoded(tmp_path / "a", base, DIALOGUES, loss_on="all")
    encoded(tmp_path / "b", base, DIALOGUES, loss_on="all", template="speakers")


def test_what_the_template_does_not_take_is_listed_or_left_out(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spells = Dialogue("bad", (turn("user", "a<|im_end|>"), turn("assistant", "b")))
    with pytest.raises(UserError, match="bad.*turn 1 spells the special token") as error:
        encoded(tmp_path / "a", base, [*DIALOGUES, spells])
    assert "data.on_invalid: skip" in str(error.value)
    ledger, _ = encoded(tmp_path / "b", base, [*DIALOGUES, spells], skips=True)
    assert ledger["num_not_encodable"] == {"train": 1, "validation": 0}
    assert ledger["num_tokens"]["dropped_not_encodable"] > 0
    assert "left out, since data.on_invalid is skip" in capsys.readouterr().out


def test_people_without_roles_are_left_out_of_a_chat_template(base: Path, tmp_path: Path) -> None:
    """Also where none of their turns would be trained."""
    people = Dialogue("people", (Turn("Ann", "Hello!"), Turn("Bob", "Hi.")))
    for number, loss_on in enumerate(("auto", "assistant")):
        folder = tmp_path / str(number)
        with pytest.raises(UserError, match="'people': 'Ann' has no role"):
            encoded(folder / "a", base, [*DIALOGUES, people], template="chat", loss_on=loss_on)
        ledger, _ = encoded(
            folder / "b", base, [*DIALOGUES, people], skips=True, template="chat", loss_on=loss_on
        )
        assert ledger["num_not_encodable"] == {"train": 1, "validation": 0}
        assert ledger["num_speaker_tokens"] == 0


def test_a_long_dialogue_keeps_its_system_text_in_every_window(base: Path, tmp_path: Path) -> None:
    turns = [turn("system", "Be brief.")]
    for number in range(12):
        turns.append(turn("user", f"What is the number {number} about?"))
        turns.append(turn("assistant", f"It is about the sea and the number {number}."))
    _, folder = encoded(
        tmp_path, base, [Dialogue("long", tuple(turns))], max_length=96, min_context=16
    )
    windows = read_windows(folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    starts = windows.window_starts.tolist()
    texts = [
        str(tokenizer.decode(windows.input_ids[start:stop].tolist()))
        for start, stop in zip(starts, starts[1:], strict=False)
    ]
    assert len(texts) > 2
    assert all("Be brief." in text for text in texts)


def test_the_published_model_stops_where_its_template_does(base: Path, tmp_path: Path) -> None:
    prepare_tokenizer(base, tmp_path / "tokenizer", 0, choice="chat", has_roles=True)
    publish(
        load_for_training(base, tmp_path / "tokenizer", 64),
        tmp_path / "tokenizer",
        tmp_path / "model",
    )
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "model" / name).read_bytes() == (base / name).read_bytes()
    config = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (config["eos_token_id"], config["pad_token_id"])[0][0] == stop
    partners = load_partners(base, tmp_path / "model")
    assert {partner.template.name for partner in partners.values()} == {"chat"}
    chat = [{"role": "user", "content": "Hello!"}]
    answers = [
        partner.answer(chat, "assistant", GREEDY, 5, "Be brief.") for partner in partners.values()
    ]
    assert answers[0] == answers[1]
    assert partners["tuned"].takes_system
    refused = ["Hello<|im_end|>"]
    if "alternate" in (base / "chat_template.jinja").read_text():
        chat.append({"role": "user", "content": "And?"})
        refused = ["Hello!"]
    for text in refused:
        told = talk(partners, text, [chat, chat], 0.9, 0.95, 5, 3)
        with pytest.raises(UserError, match=r"^The model cannot be asked: turn .* start anew\.$"):
            next(told)  # before anything is said


def test_the_chat_page_asks_for_a_system_text_where_the_template_takes_one(
    tiny_base: Path, tmp_path: Path
) -> None:
    for number, (template, takes) in enumerate(
        [
            (CHATML, True),
            (MERGES_SYSTEM, True),
            ("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}", False),
            ("{% set messages = messages | rejectattr('role', 'equalto', 'system') %}", False),
        ]
    ):
        written = template if takes else template + CHATML
        base = make_base(tiny_base, tmp_path / str(number), written)
        reads = template_of(base, choice="chat", has_roles=True)
        model = AutoModelForCausalLM.from_pretrained(base)
        assert Partner(model, reads, reads.has_roles).takes_system == takes


def test_the_preview_shows_the_templates_own_form(base: Path, template: Template) -> None:
    shown = show_dialogue(
        DIALOGUES[0], "train", template, max_length=48, min_context=8, loss_on="auto"
    )
    tokens = [token for window in shown.windows for token in window.tokens]
    trained = "".join(token.text for token in tokens if token.kind == "trained")
    assert trained.count("<|im_end|>") == 2
    assert "I do like 0." in trained and "the sea" in trained
    assert {token.text for token in tokens if token.kind == "speaker"} == {"<|im_start|>"}
    assert shown.num_tokens == sum(
        len(one.input_ids)
        for one in template.read(DIALOGUES[0]).renderings([False, False, True, False, True])
    )
    spells = Dialogue("bad", (turn("user", "a<|im_end|>"), turn("assistant", "b")))
    left_out = show_dialogue(
        spells, "train", template, max_length=48, min_context=8, loss_on="auto"
    )
    assert left_out.bucket == "dropped_not_encodable"


@pytest.fixture
def own_template(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A template in a file, which no base model here has, in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("templates").mkdir()
    Path("templates/mine.jinja").write_text("{{ 'Own. ' }}" + CHATML)
    return "templates/mine.jinja"


@pytest.mark.parametrize("of_base", [None, MERGES_SYSTEM])
def test_a_template_in_a_file_takes_the_place_of_the_base_models(
    tiny_base: Path, tmp_path: Path, own_template: str, of_base: str | None
) -> None:
    """In what is encoded, in what base and tuned are scored in, and in what is published."""
    base = make_chat_base(tiny_base, tmp_path / "base", of_base)
    prepare_tokenizer(base, tmp_path / "tokenizer", 0, choice=own_template, has_roles=True)
    served: Any = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    chat = [{"role": "user", "content": "Hello"}]
    text = served.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "Own. <|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    prompts = [
        template.read(DIALOGUES[0]).after([0, 1], 2).prompt
        for template in (
            template_of(tmp_path / "tokenizer"),
            template_of(base, choice=own_template, has_roles=True),
        )
    ]
    assert prompts[0] == prompts[1]
    assert served.decode(prompts[0]).startswith("Own. <|im_start|>system\nBe brief.")


def test_both_models_of_the_chat_page_read_the_template_of_the_file(
    base: Path, tmp_path: Path, own_template: str
) -> None:
    """Also where the base model has none."""
    plain = shutil.copytree(base, tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    prepare_tokenizer(plain, tmp_path / "tokenizer", 0, choice=own_template)
    model = load_for_training(plain, tmp_path / "tokenizer", 64)
    publish(model, tmp_path / "tokenizer", tmp_path / "model")
    chat = [{"role": "user", "content": "Hello!"}]
    prompts = [
        partner.place(chat, "assistant").prompt
        for partner in load_partners(plain, tmp_path / "model").values()
    ]
    assert prompts[0] == prompts[1]
    tokenizer: Any = AutoTokenizer.from_pretrained(plain)
    assert tokenizer.decode(prompts[0]).startswith("Own. <|im_start|>")


def test_a_template_that_is_not_there_is_named(tiny_base: Path, tmp_path: Path) -> None:
    base = make_chat_base(tiny_base, tmp_path / "base", CHATML)
    with pytest.raises(UserError, match=r"encoding.template: templates/no.jinja cannot be read"):
        prepare_tokenizer(base, tmp_path / "tokenizer", 0, choice="templates/no.jinja")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "templates/mine.jinja is empty"),
        ("{% for m in messages %}", "encoding.template is templates/mine.jinja, which fails: the "),
        (CHATML.partition("{% if add")[0], "nothing in it asks for an answer"),
    ],
)
def test_a_template_in_a_file_that_cannot_be_used_is_blamed_by_its_name(
    tiny_base: Path, tmp_path: Path, own_template: str, text: str, what: str
) -> None:
    Path(own_template).write_text(text)
    base = make_chat_base(tiny_base, tmp_path / "base", CHATML)
    with pytest.raises(UserError, match=re.escape(what)):
        prepare_tokenizer(base, tmp_path / "tokenizer", 0, choice=own_template)


def test_a_mark_of_the_byte_order_is_no_part_of_a_template(
    tiny_base: Path, tmp_path: Path, own_template: str
) -> None:
    Path(own_template).write_bytes(b"\xef\xbb\xbf" + CHATML.encode())
    base = make_chat_base(tiny_base, tmp_path / "base", None)
    template = prepare_tokenizer(base, tmp_path / "tokenizer", 0, choice=own_template)
    assert template.tokenizer.chat_template == CHATML


def test_the_template_that_comes_along_writes_chatml(tiny_base: Path, tmp_path: Path) -> None:
    choice = str(Path(__file__).parents[2] / "templates/chatml.jinja")
    plain, with_own = (
        make_chat_base(tiny_base, tmp_path / name, template)
        for name, template in (("plain", None), ("own", CHATML))
    )
    found = [
        one.read(DIALOGUES[0]).renderings([turn.role == "assistant" for turn in DIALOGUES[0].turns])
        for one in (template_of(plain, choice=choice), template_of(with_own, choice="chat"))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("fate", ["val", "test", "duplicate"])
def test_what_is_not_trained_is_shown_in_the_templates_own_form_too(
    template: Template, fate: str
) -> None:
    settings: dict[str, Any] = {"max_length": 1024, "min_context": 8, "loss_on": "auto"}
    trained = show_dialogue(DIALOGUES[0], "train", template, **settings)
    shown = show_dialogue(DIALOGUES[0], fate, template, **settings)
    assert [[token.text for token in window.tokens] for window in shown.windows] == [
        [token.text for token in window.tokens] for window in trained.windows
    ]
    kinds = {token.kind for window in shown.windows for token in window.tokens}
    assert kinds == {"speaker", "dropped" if fate == "duplicate" else "held_out"}


def test_in_the_terminal_each_line_is_marked_as_what_it_holds(template: Template) -> None:
    shown = show_dialogue(
        DIALOGUES[0], "train", template, max_length=1024, min_context=8, loss_on="auto"
    )
    marked: dict[str, list[str]] = {}
    for line in as_text(shown).splitlines()[3:]:
        mark, border, rest = line.partition("│")
        if border and mark[1] == " ":
            marked.setdefault(mark[0], []).extend(rest.split("│"))
    tokens = [token for window in shown.windows for token in window.tokens]
    for mark, kind in (("+", "trained"), (".", "context")):
        texts = (token.text for token in tokens if token.kind == kind)
        assert marked[mark] == [
            "".join(one for one, _ in visible_characters(text)) for text in texts
        ]


def test_the_template_that_comes_along_writes_tools_and_calls_that_can_be_read_back(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Below a system text with the tools, behind the turn's words, and whole in what is trained."""
    calls = (ToolCall("weather", '{"city": "Rome", "days": [1, 2]}'), ToolCall("time", "{}"))
    said = Dialogue(
        "d",
        (
            turn("system", "Be brief."),
            turn("user", "What is it like?"),
            turn("assistant", "I look.", tool_calls=calls),
            turn("tool", "12 degrees"),
            turn("assistant", "It is mild."),
        ),
        tools='[{"name": "weather"}]',
    )
    choice = str(Path(__file__).parents[2] / "templates/chatml.jinja")
    template = template_of(make_chat_base(tiny_base, tmp_path / "base", None), choice=choice)
    assert template.lacks(said) == []
    (found,) = template.read(said).renderings([one.role == "assistant" for one in said.turns])
    targets = [*compress(found.input_ids, found.is_target)]
    first = targets[: targets.index(template.end[0])]
    text = template.text_of(first)
    assert text.startswith("I look.\n")
    assert template.calls is not None
    assert template.calls.read(text) == [
        ("weather", {"city": "Rome", "days": [1, 2]}),
        ("time", {}),
    ]
