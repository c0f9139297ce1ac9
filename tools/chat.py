"""A page to talk with the base and the fine-tuned model side by side: ``make chat``.

Needs the optional package gradio (``pip install gradio==6.31.0``). The page is served on this
machine alone and sends nothing elsewhere.
"""

from __future__ import annotations

import argparse
import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from tools.local_page import add_port, import_gradio, serve
from tuning.dialogue import ROLES, Dialogue, Turn
from tuning.report.report_page import TITLES
from tuning.run.errors import UserError
from tuning.run.process import run_stage
from tuning.scoring.measures import load_model
from tuning.tokens.chat_template import ChatTemplate
from tuning.tokens.template import NotEncodableError, Template, TurnInPlace
from tuning.tokens.templates import template_of
from tuning.tokens.tokenizer import load_tokenizer
from tuning.writing.decoding import Request, Sampling, write_replies

Message = dict[str, Any]
"""``role`` (user or assistant) and ``content``, as gradio keeps a chat. It takes text for HTML, so
what was said is escaped in it."""


@dataclass(frozen=True)
class Partner:
    """A model that answers, in its own template."""

    model: PreTrainedModel
    template: Template
    has_roles: bool
    """Whether the fine-tuned model was made for roles; else both are two people."""

    def answer(
        self,
        chat: Sequence[Message],
        role: Literal["user", "assistant"],
        sampling: Sampling,
        max_new_tokens: int,
        system: str = "",
    ) -> str:
        """Write the next turn of one of the two, as eval would let the model write it.

        Args:
            chat: At least one turn.
            role: Who speaks next.
            sampling: How to choose tokens; with one seed, the same chat gets the same answer.
            max_new_tokens: Longest answer, in tokens.
            system: Stands before the chat, where the model knows roles.

        Raises:
            UserError: the model cannot be asked for it.
        """
        place = self.place(chat, role, system)
        request = Request(
            tuple(place.context),
            len(place.context),
            (tuple(place.turn.tag),),
            sampling,
            name=str(len(chat)),
        )
        replies = write_replies(
            self.model,
            self.template,
            [request],
            max_new_tokens=max_new_tokens,
            batch_size=1,
        )
        return self.template.text_of(replies[0][0].ids) if replies[0] else "(the chat is too long)"

    def place(
        self, chat: Sequence[Message], role: Literal["user", "assistant"], system: str = ""
    ) -> TurnInPlace:
        """Return what the model reads before it writes the next turn, as for ``answer``.

        Raises:
            UserError: its template does not take the chat.
        """
        turns = [Turn("system", system, "system")] if system and self.has_roles else []
        turns += (self._turn(message["role"], text_in(message)) for message in chat)
        number = len(turns)
        reading = self.template.read(Dialogue("chat", (*turns, self._turn(role, ""))))
        try:
            reading.renderings([*[False] * number, True])
        except NotEncodableError as error:
            raise UserError(
                f"The model cannot be asked: {error}. Write it otherwise, or start anew."
            ) from None
        return reading.after(range(number), number)

    @property
    def takes_system(self) -> bool:
        """Whether the model reads a system text."""
        turns = (Turn(role, f"{role} text", role) for role in ROLES[:3])  # but for a tool's answer
        dialogue = Dialogue("chat", tuple(turns))
        try:
            self.template.read(dialogue).renderings([False, False, True])
        except NotEncodableError:
            return False
        return self.has_roles and "system text" not in self.template.lacks(dialogue)

    def _turn(self, role: Literal["user", "assistant"], text: str) -> Turn:
        return Turn(role, text, role if self.has_roles else None)


def load_partners(base: Path, model: Path) -> dict[str, Partner]:
    """Load both models, each with the template that eval scores it in."""
    for folder in (base, model):
        if not (folder / "config.json").exists():
            raise UserError(f"{folder} is no model; get it with dvc pull, or make it: make repro.")
    tuned = template_of(model)
    if isinstance(tuned, ChatTemplate):
        tokenizer = load_tokenizer(base)
        tokenizer.chat_template = tuned.tokenizer.chat_template  # maybe not the base's own
        others: Template = ChatTemplate(tokenizer, tuned.settings)
    else:
        others = template_of(base)
    return {
        name: Partner(load_model(folder, template), template, tuned.has_roles)
        for name, folder, template in (("base", base, others), ("tuned", model, tuned))
    }


def text_in(message: Message) -> str:
    """Return what was said; gradio may hand a message on in parts."""
    content = message["content"]
    if not isinstance(content, str):
        content = "".join(part["text"] for part in content if part.get("type", "text") == "text")
    return html.unescape(content)


def talk(
    partners: Mapping[str, Partner],
    text: str,
    chats: Sequence[list[Message]],
    temperature: float,
    top_p: float,
    max_new_tokens: float,
    seed: float,
    system: str = "",
) -> Iterator[list[list[Message]]]:
    """Yield the chats after the user's turn, and again after each answer.

    Without a text the models write the user's turn too, each in its own chat.

    Raises:
        UserError: one of them cannot be asked; nothing was said then.
    """
    sampling = Sampling(temperature, top_p, int(seed))
    longest = int(max_new_tokens)
    new = [list(chat) for chat in chats]
    if not text.strip() and not all(new):
        yield new  # nobody has said anything yet
        return
    said = [{"role": "user", "content": html.escape(text.strip())}] if text.strip() else []
    for chat, partner in zip(new, partners.values(), strict=True):
        partner.place([*chat, *said], "assistant" if said else "user", system)
    for chat, partner in zip(new, partners.values(), strict=True):
        turn = text.strip() or partner.answer(chat, "user", sampling, longest, system)
        chat.append({"role": "user", "content": html.escape(turn)})
        yield new
    for chat, partner in zip(new, partners.values(), strict=True):
        turn = partner.answer(chat, "assistant", sampling, longest, system)
        chat.append({"role": "assistant", "content": html.escape(turn)})
        yield new


def build_page(partners: Mapping[str, Partner]) -> Any:
    """Build the page, a ``gradio.Blocks``."""
    gradio = import_gradio()
    with gradio.Blocks(title="Two models, one chat", analytics_enabled=False) as page:
        gradio.Markdown(
            "# Two models, one chat\nYou write to both; each goes on with its own chat."
        )
        with gradio.Row():
            chats = [
                gradio.Chatbot(
                    label=TITLES[name],
                    height=420,
                    render_markdown=False,
                    allow_tags=False,
                    buttons=["copy"],
                    feedback_options=None,
                )
                for name in partners
            ]
        tuned = partners["tuned"]
        system = gradio.Textbox(
            label="System", placeholder="Stands before the chat", visible=tuned.takes_system
        )
        text = gradio.Textbox(label="You", placeholder="Say something, and press Enter", lines=1)
        with gradio.Row():
            send = gradio.Button("Send", variant="primary")
            # A chat template asks nobody but the assistant.
            go_on = gradio.Button("Let them go on", visible=tuned.template.asks_all)
            clear = gradio.Button("Start anew")
        with gradio.Row():
            controls = [
                gradio.Slider(0, 1.5, 0.7, step=0.05, label="Temperature (0: the likeliest)"),
                gradio.Slider(0.05, 1, 0.9, step=0.05, label="Top p"),
                gradio.Slider(5, 200, 60, step=5, label="Longest answer, tokens"),
                gradio.Number(1337, precision=0, minimum=0, label="Seed"),
            ]
            controls.append(system)

        def answer(text: str, *values: Any) -> Iterator[list[Any]]:
            said = values[: len(chats)]
            try:
                for new in talk(partners, text, said, *values[len(chats) :]):
                    yield [*new, ""]
            except UserError as error:
                gradio.Warning(html.escape(str(error)), duration=None)
                yield [*said, text]

        def go_on_alone(*values: Any) -> Iterator[list[Any]]:
            for *new, _ in answer("", *values):
                yield new

        inputs = [*chats, *controls]
        for event in (send.click, text.submit):
            event(answer, [text, *inputs], [*chats, text])
        go_on.click(go_on_alone, inputs, chats)
        clear.click(lambda: [[] for _ in chats], None, chats)
    return page


def main() -> None:
    """Serve the page until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tools.chat", description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="the base model's folder")
    parser.add_argument("--model", type=Path, required=True, help="the fine-tuned model's folder")
    add_port(parser, 7860)
    args = parser.parse_args()
    import_gradio()  # before minutes of loading
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    serve(build_page(load_partners(args.base, args.model)), "chat", args.port)


if __name__ == "__main__":
    run_stage("chat", main)
