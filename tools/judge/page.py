"""The page on which a person judges: a context, two continuations, four answers."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tools.judge.pairs import Shown
from tools.judge.votes import CHOICES, Ballot, Choice
from tools.local_page import import_gradio
from tuning.run.errors import UserError
from tuning.run.files import told
from tuning.run.visible import JOINER, visible

LABELS: dict[Choice, str] = {
    "left": "Left",
    "right": "Right",
    "tie": "Tie",
    "both_bad": "Both bad",
}
KEYS = """
<script>
document.addEventListener("keydown", (event) => {
  const is_plain = !event.repeat && !event.ctrlKey && !event.altKey && !event.metaKey;
  if (is_plain && /^[1-4]$/.test(event.key)) document.getElementById(`vote-${event.key}`)?.click();
});
</script>
"""
"""For the page's head: the keys 1 to 4 press the four buttons."""

_BOX = "white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.6em 0.8em; margin: 0.3em 0;"
_BOX += " border: 1px solid var(--border-color-primary); border-radius: 0.5em;"
# What is in a reversed column is first seen at its end: the turns that are answered.
_SCROLL = "display: flex; flex-direction: column-reverse; max-height: 45vh; overflow-y: auto;"


@dataclass(frozen=True)
class Question:
    """What the page shows; of neither text does it say whose it is."""

    progress: str
    context: str
    left: str
    right: str
    pair_id: str
    """Comes back with the answer: it counts for what was on the screen. Empty at the end."""


@dataclass(frozen=True)
class Questions:
    """A person's questions, in the drawn order."""

    ballot: Ballot

    def current(self) -> Question:
        """Return the first pair that has no vote, as HTML.

        Raises:
            UserError: the file of votes cannot be read.
        """
        left = self._left()
        total = len(self._drawn)
        progress = f"{total - len(left):,} of {total:,} judged by {_text(self.ballot.judge)}"
        if not left:
            return Question(f"{progress}: that was all, thank you.", "", "", "", "")
        turns = "".join(map(_box, left[0].pair.context))
        return Question(
            progress,
            f'<div style="{_SCROLL}"><div>{turns}</div></div>',
            _box(left[0].left),
            _box(left[0].right),
            left[0].pair.pair_id,
        )

    def answer(self, pair_id: str, choice: Choice) -> None:
        """Keep the vote on the pair that was shown, unless it has one: of a double click, say.

        Raises:
            UserError: the file of votes cannot be read.
        """
        for shown in self._left():
            if shown.pair.pair_id == pair_id:
                self.ballot.add(shown, choice)

    @cached_property
    def _drawn(self) -> Sequence[Shown]:
        return self.ballot.pairing.drawn(self.ballot.seed, self.ballot.judge)

    def _left(self) -> list[Shown]:
        judged = {pair_id for pair_id, _ in self.ballot.orders_asked()}
        return [shown for shown in self._drawn if shown.pair.pair_id not in judged]


def _box(text: str) -> str:
    return f'<div style="{_BOX}">{_text(text) or "<em>(says nothing)</em>"}</div>'


def _text(text: str) -> str:
    return html.escape(visible(text.strip(), keep=f"\n{JOINER}"))


def build_page(questions: Questions) -> Any:
    """Build the page, a ``gradio.Blocks``."""
    gradio = import_gradio()
    with gradio.Blocks(title="Which goes on better?", analytics_enabled=False) as page:
        gradio.Markdown("# Which goes on better?")
        progress = gradio.HTML()
        gradio.Markdown("The conversation so far, turn by turn:")
        context = gradio.HTML()
        gradio.Markdown("Two ways to go on:")
        with gradio.Row():
            sides = [gradio.HTML(), gradio.HTML()]
        pair_id = gradio.Textbox(visible=False)
        with gradio.Row():
            buttons = [
                gradio.Button(f"{LABELS[choice]} ({key})", elem_id=f"vote-{key}", interactive=False)
                for key, choice in enumerate(CHOICES, start=1)
            ]
        outputs = [progress, context, *sides, pair_id, *buttons]

        def show() -> list[Any]:
            now = questions.current()
            usable = [gradio.update(interactive=bool(now.pair_id)) for _ in buttons]
            return [now.progress, now.context, now.left, now.right, now.pair_id, *usable]

        def answer_with(choice: Choice) -> Any:
            def answer(shown_id: str) -> list[Any]:
                try:
                    questions.answer(shown_id, choice)
                    return show()
                except (UserError, OSError) as error:
                    why = told(error) if isinstance(error, OSError) else str(error)
                    gradio.Warning(html.escape(why), duration=None)
                    return [gradio.skip() for _ in outputs]

            return answer

        page.load(show, None, outputs, api_visibility="private")
        for button, choice in zip(buttons, CHOICES, strict=True):
            button.click(
                answer_with(choice),
                pair_id,
                outputs,
                show_progress="hidden",
                concurrency_id="votes",  # one after the other, whichever button
                api_visibility="private",
            )
    return page
