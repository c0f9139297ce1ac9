"""Shown dialogues and ledgers as one HTML page that needs nothing else, online or offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from tuning.encoding.preview import ShownDialogue, ShownToken, ShownWindow, counted, visible

MAX_SHOWN_TOKENS = 120
"""Boxes per window; the rest is counted."""
MAX_SHOWN_WINDOWS = 2

_STYLE = """
:root { color-scheme: light dark;
  --page: #fff; --text: #1c2024; --muted: #5c6570; --line: #d5dae0; --card: #f7f8fa;
  --trained: #d3efd9; --trained-line: #1f7a3a; --context-line: #6b7480;
  --held: #dbe8fd; --held-line: #2459b3; --test: #ebe0fb; --test-line: #6b3fb5;
  --drop: #fbe1de; --drop-line: #b3341f; --cut: #fdeac4; --cut-line: #8f5f00; --none: #e3e6ea; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171a; --text: #e6e9ec; --muted: #9ba5b0; --line: #363d45; --card: #1c2126;
  --trained: #173d24; --trained-line: #5ec27d; --context-line: #8a949f;
  --held: #1b3157; --held-line: #7fb0ff; --test: #35245a; --test-line: #b99bf5;
  --drop: #4b211b; --drop-line: #f08a78; --cut: #46360f; --cut-line: #e0b04a; --none: #2d343b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: 0 0 .6rem; max-width: 46rem; }
small, .note { color: var(--muted); font-size: .85rem; }
code { font: .85em ui-monospace, monospace; overflow-wrap: anywhere; }
.ledger { margin: 0 0 1.6rem; }
.bar { display: flex; gap: 2px; height: 1.7rem; margin: .4rem 0 .6rem; }
.bar span { min-width: 4px; }
.bar span, .swatch { border: 1px solid var(--edge); border-radius: 3px; background: var(--fill); }
.swatch { display: inline-block; width: 1.3em; height: .9em; margin-right: .6em;
  vertical-align: -.05em; }
table { border-collapse: collapse; width: min(100%, 34rem); font-variant-numeric: tabular-nums; }
th { font-weight: 400; text-align: left; padding: .1rem 0 .1rem 1.9em; text-indent: -1.9em; }
td { text-align: right; vertical-align: top; padding: .1rem 0 .1rem .8rem; white-space: nowrap; }
.b-train { --edge: var(--trained-line); --fill: var(--trained); }
.b-context { --edge: var(--context-line); --fill: radial-gradient(var(--context-line) 25%,
  var(--none) 30%) 0 0 / 6px 6px; }
.b-truncated { --edge: var(--cut-line); --fill: repeating-linear-gradient(90deg, var(--cut) 0 5px,
  var(--cut-line) 5px 6px); }
.b-validation { --edge: var(--held-line); --fill: repeating-linear-gradient(45deg, var(--held) 0
  5px, var(--held-line) 5px 6px); }
.b-test { --edge: var(--test-line); --fill: repeating-linear-gradient(0deg, var(--test) 0 5px,
  var(--test-line) 5px 6px); }
.b-dropped { --edge: var(--drop-line); --fill: repeating-linear-gradient(-45deg, var(--drop) 0 5px,
  var(--drop-line) 5px 6px); }
.legend { display: grid; grid-template-columns: max-content 1fr; gap: .35rem .9rem; margin: 0; }
.legend dd { margin: 0; color: var(--muted); font-size: .9rem; align-self: center; }
article { border: 1px solid var(--line); border-radius: 8px; margin: 0 0 1.4rem; }
header { padding: .7rem .9rem; border-bottom: 1px solid var(--line); background: var(--card);
  border-radius: 8px 8px 0 0; }
section { padding: .6rem .9rem .8rem; }
section + section { border-top: 1px dashed var(--line); }
.turn { display: grid; grid-template-columns: minmax(6.9rem, max-content) 1fr; gap: .6rem;
  margin: .3rem 0; }
.content { line-height: 1.85; min-width: 0; overflow-wrap: anywhere; }
.t { padding: .08em .14em; margin-right: 2px; border-radius: 3px; unicode-bidi: isolate;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.trained { background: var(--trained); border-bottom: 2px solid var(--trained-line); }
.context { border-bottom: 2px dotted var(--context-line); }
.held_out { background: var(--held); border-bottom: 2px dashed var(--held-line); }
.dropped { background: var(--drop); text-decoration: line-through var(--drop-line); }
.special { font: .72rem ui-monospace, monospace; }
.speaker { border: 1px solid currentColor; border-radius: 99px; padding: .1em .5em;
  white-space: nowrap; }
.t i { font-style: normal; color: var(--muted); }
.t sup { font-size: .65em; line-height: 0; color: var(--muted); }
@media (max-width: 34rem) { .turn { display: block; } .content { margin: .1rem 0 .6rem; } }
"""

_LEGEND = (
    (ShownToken("<|speaker1|>", "speaker", 1, True), "who speaks next: read, never trained"),
    (ShownToken(" trained", "trained"), "the loss is on this token"),
    (ShownToken(" context", "context"), "read, not trained: as turns that a later window repeats"),
    (ShownToken(" held out", "held_out"), "validation or test: never in training"),
    (ShownToken(" dropped", "dropped"), "left out, for the reason given"),
    (ShownToken("☺", "trained", 3), "one character that is several tokens"),
    (ShownToken(" \n", "trained"), "a space and a line end"),
)


_MEANINGS = {
    "context": " <small>read, not trained</small>",
    "truncated": " <small>in no window</small>",
}


def as_html(dialogues: Sequence[ShownDialogue], ledgers: Mapping[str, Mapping[str, int]]) -> str:
    """The page.

    Args:
        dialogues: Shown in this order; long ones are cut, and the page says by how much.
        ledgers: What is counted (``tokens``) -> bucket -> how many.
    """
    legend = "".join(f"<dt>{_token(token)}</dt><dd>{text}</dd>\n" for token, text in _LEGEND)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>What the model is trained on</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n"
        "<h1>What the model is trained on</h1>\n"
        "<p>Where every token and every dialogue of the input went, each counted once; then a few "
        "dialogues token by token, cut into windows as they are for training.</p>\n"
        f"<h2>Where the input went</h2>\n{''.join(_ledger(*item) for item in ledgers.items())}"
        f'<h2>How to read the tokens</h2>\n<dl class="legend">\n{legend}</dl>\n'
        f"<h2>Dialogues</h2>\n{''.join(map(_dialogue, dialogues))}"
        "</body>\n</html>\n"
    )


def _ledger(unit: str, ledger: Mapping[str, int]) -> str:
    """A bar with a segment for each bucket that holds something, and a table of all of them."""
    total = sum(ledger.values())
    bar = "".join(
        f'<span class="{_bucket_class(name)}" style="flex:{count}" '
        f'title="{escape(_bucket_title(name))}: {count:,}"></span>'
        for name, count in ledger.items()
        if count
    )
    rows = "".join(
        f'<tr><th><span class="swatch {_bucket_class(name)}"></span>'
        f"{escape(_bucket_title(name))}{_MEANINGS.get(name, '')}</th><td>{count:,}</td>"
        f"<td>{_share(count, total)}</td></tr>\n"
        for name, count in ledger.items()
    )
    return (
        f'<div class="ledger">\n<h3>{total:,} {escape(unit)}</h3>\n'
        f'<div class="bar" aria-hidden="true">{bar}</div>\n<table>\n{rows}</table>\n</div>\n'
    )


def _dialogue(dialogue: ShownDialogue) -> str:
    shown = dialogue.windows[:MAX_SHOWN_WINDOWS]
    sections = "".join(
        _window(window, number, dialogue) for number, window in enumerate(shown, start=1)
    )
    if num_more := len(dialogue.windows) - len(shown):
        sections += f'<section class="note">… {counted(num_more, "more window")}</section>\n'
    return (
        f"<article>\n<header><h3>{escape(dialogue.title)}</h3>\n"
        f"<small>{dialogue.counts}<br>id {_code(dialogue.dialogue_id)}</small></header>\n"
        f"{sections}</article>\n"
    )


def _window(window: ShownWindow, number: int, dialogue: ShownDialogue) -> str:
    """As many of its tokens as are shown; in a training dialogue, with a line of what it holds."""
    note = ""
    if dialogue.bucket == "train":
        note = (
            f'<div class="note">Window {number} of {len(dialogue.windows)}: '
            f"{counted(window.num_tokens, 'token')}, {window.num_trained:,} trained</div>\n"
        )
    shown = ShownWindow(window.tokens[:MAX_SHOWN_TOKENS])
    turns = "".join(map(_turn, shown.turns))
    if num_more := window.num_tokens - shown.num_tokens:
        turns += f'<div class="note">… {counted(num_more, "more token")}</div>\n'
    return f"<section>\n{note}{turns}</section>\n"


def _turn(turn: Sequence[ShownToken]) -> str:
    """The speaker token, and beside it the rest in the direction of its script."""
    tag, *rest = map(_token, turn)
    return (
        f'<div class="turn"><div>{tag}</div>'
        f'<div class="content" dir="auto">{"".join(rest)}</div></div>\n'
    )


def _token(token: ShownToken) -> str:
    """A box; after one that ends in a line end, a new line."""
    text = _text(token.text).replace(" ", "<i>·</i>")
    several = f"<sup>×{token.num_tokens}</sup>" if token.num_tokens > 1 else ""
    special = " special" if token.is_special else ""
    line_end = "<br>" if token.text.endswith("\n") else "<wbr>"
    return f'<span class="t {token.kind}{special}">{text}{several}</span>{line_end}'


def _text(text: str) -> str:
    """Escaped, with faint stand-ins for what cannot be seen."""
    return "".join(
        f"<i>{escape(shown)}</i>" if stands_in else escape(shown)
        for shown, stands_in in visible(text)
    )


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>"


def _bucket_class(name: str) -> str:
    """The colour and pattern of a bucket; dialogues in training look like trained tokens."""
    known = {"trained": "train"}.get(name, name)
    return f"b-{'dropped' if known.startswith('dropped_') else known}"


def _bucket_title(name: str) -> str:
    title = {"train": "training"}.get(name, name)
    return title.replace("dropped_", "dropped: ").replace("_", " ")


def _share(count: int, total: int) -> str:
    """``12.3 %``; a part is never shown as nothing."""
    share = count / total if total else 0.0
    return "< 0.1 %" if 0 < share < 0.001 else f"{share:.1%}".replace("%", " %")
