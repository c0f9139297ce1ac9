"""The frame of the pages that people look at: one HTML file each, which needs nothing else."""

from __future__ import annotations

from html import escape

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1c2024; --muted: #5c6570;
  --line: #d5dae0; --card: #f7f8fa; --better: #1f7a3a; --worse: #b3341f; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --text: #e6e9ec; --muted: #9ba5b0;
  --line: #363d45; --card: #1c2126; --better: #5ec27d; --worse: #f08a78; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 0 0 .6rem; }
h4 { font-size: .8rem; margin: .4rem 0 .2rem; color: var(--muted); }
p { margin: 0 0 .5rem; max-width: 46rem; }
.note { color: var(--muted); font-size: .9rem; }
table { border-collapse: collapse; width: 100%; margin: 0 0 .8rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; border-bottom: 1px solid var(--line); text-align: right;
  overflow-wrap: normal; }
thead th { color: var(--muted); font-size: .85rem; font-weight: 400; vertical-align: bottom; }
th:first-child { text-align: left; }
tbody th { font-weight: 600; }
.better { color: var(--better); font-weight: 600; }
.worse { color: var(--worse); font-weight: 600; }
article { border: 1px solid var(--line); border-radius: 8px; margin: 0 0 1.2rem;
  padding: .8rem .9rem; }
.sides > div { background: var(--card); border-radius: 6px; padding: 0 .7rem .5rem; }
"""


def as_page(title: str, style: str, body: str) -> str:
    """The whole file.

    Args:
        title: What the browser calls it.
        style: Of this page, behind what all pages have.
        body: HTML.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n"
        f"{body}</body>\n</html>\n"
    )


def counted(number: int, noun: str) -> str:
    """``1 dialogue``, ``2 dialogues``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
