"""The terminal form of a comparison."""

from __future__ import annotations

from tools.compare.comparison import COLUMNS, Comparison


def as_text(comparison: Comparison) -> str:
    """The two sides, the table, and what its intervals cover."""
    table = [["fine-tuned", *COLUMNS]]
    table += [[row.headline.title, *row.cells] for row in comparison.rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = [f"{letter}  {name}" for letter, name in comparison.sides.items()]
    lines += [comparison.text, ""]
    for title, *numbers, verdict in table:
        cells = [title.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append("  ".join([*cells, verdict]))
    lines += ["", "Δ = B − A, on the same dialogues; the verdict is about B.", *comparison.notes]
    return "\n".join(lines) + "\n"
