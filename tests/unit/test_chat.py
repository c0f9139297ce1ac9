"""Talking with two models: each goes on with its own chat, as evaluation would let it write."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tools.chat import Message, Partner, load_partners, talk, text_in
from tools.local_page import OwnPageAlone
from tuning.dialogue import Dialogue, Turn
from tuning.run.errors import UserError
from tuning.tokens.templates import prepare_tokenizer
from tuning.training.publishing import publish
from tuning.training.start import load_for_training
from tuning.writing.continuing import plan_continuations, samples_of
from tuning.writing.decoding import GREEDY, write_replies

SAID = "Hello! How are you doing today?"


@pytest.fixture(scope="module")
def partners(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Partner]:
    folder = tmp_path_factory.mktemp("chat")
    prepare_tokenizer(tiny_base, folder / "tokenizer", 2)
    model = load_for_training(tiny_base, folder / "tokenizer", 64)
    publish(model, folder / "tokenizer", folder / "model")
    return load_partners(tiny_base, folder / "model")


def last(
    partners: dict[str, Partner], text: str, chats: list[list[Message]]
) -> list[list[Message]]:
    *_, found = talk(partners, text, chats, 0.9, 0.95, 12, 3)
    return found


def test_both_answer_and_each_in_its_own_chat(partners: dict[str, Partner]) -> None:
    shown = [
        [len(chat) for chat in chats] for chats in talk(partners, SAID, [[], []], 0.9, 0.95, 12, 3)
    ]
    assert shown[-1] == [2, 2]
    chats = last(partners, SAID, [[], []])
    assert [[message["role"] for message in chat] for chat in chats] == [["user", "assistant"]] * 2
    assert chats[0][1] != chats[1][1]
    assert chats == last(partners, SAID, [[], []]), "one seed, one answer"
    again = last(partners, "And you?", chats)
    assert [chat[:2] for chat in again] == chats
    assert [len(chat) for chat in again] == [4, 4]


def test_what_looks_like_html_is_text(partners: dict[str, Partner]) -> None:
    said = "<b>really</b> &amp; truly?"
    for chat in last(partners, said, [[], []]):
        assert "<" not in chat[0]["content"]
        assert text_in(chat[0]) == said


def test_without_a_text_the_models_speak_for_both(partners: dict[str, Partner]) -> None:
    assert last(partners, "  ", [[], []]) == [[], []]
    chats = last(partners, "", last(partners, SAID, [[], []]))
    assert [[message["role"] for message in chat] for chat in chats] == [
        ["user", "assistant"] * 2
    ] * 2


@pytest.mark.parametrize("name", ["base", "tuned"])
def test_an_answer_is_what_evaluation_would_have_written(
    partners: dict[str, Partner], name: str
) -> None:
    partner = partners[name]
    chat: list[Message] = [
        {"role": "user", "content": SAID},
        {"role": "assistant", "content": "I am fine"},
        {"role": "user", "content": "whats up?"},
    ]
    dialogue = Dialogue(
        "x", (*(Turn(m["role"], m["content"]) for m in chat), Turn("assistant", ""))
    )
    plans = plan_continuations(
        partner.template,
        [dialogue],
        num_samples=1,
        prompt_turns=3,
        reply_turns=1,
        sampling=GREEDY,
    )
    written = write_replies(
        partner.model,
        partner.template,
        [plan.request for plan in plans],
        max_new_tokens=12,
        batch_size=1,
    )
    (sample,) = samples_of(partner.template, plans, written)
    assert partner.answer(chat, "assistant", GREEDY, 12) == sample.reply[0].utterance
    parts = [
        {**message, "content": [{"type": "text", "text": text_in(message)}]} for message in chat
    ]
    assert partner.answer(parts, "assistant", GREEDY, 12) == sample.reply[0].utterance


def test_a_model_that_is_not_there_is_one_message(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="is no model; get it with dvc pull, or make it: make repro"
    ):
        load_partners(tiny_base, tmp_path / "model")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {"host": "127.0.0.1:7860"}, 200),
        ("/", {"host": "localhost:8000", "origin": "http://localhost:8000"}, 200),
        ("/", {"host": "theirs.example:7860"}, 403),
        ("/", {"host": "127.0.0.1.theirs.example"}, 403),
        ("/", {}, 403),
        ("/", {"host": "localhost:7860", "origin": "https://theirs.example"}, 403),
        ("/", {"host": "localhost:7860", "origin": "http://localhost:9999"}, 403),
        ("/", {"host": "localhost:7860", "origin": "null"}, 403),
        ("/gradio_api/upload", {"host": "localhost:7860", "origin": "http://localhost:7860"}, 403),
        ("/gradio_api/upload/", {"host": "localhost:7860"}, 403),
    ],
)
def test_the_page_answers_itself_alone_and_takes_no_files(
    path: str, headers: dict[str, str], status: int
) -> None:
    sent: list[dict[str, Any]] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "headers": pairs}
    asyncio.run(OwnPageAlone(page)(scope, None, send))
    assert sent[0]["status"] == status
