"""The result in a few lines: base, fine-tuned, change."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# metric, its name in the table, decimals
_ROWS = (
    ("bits_per_byte", "bits per byte", 4),
    ("perplexity", "perplexity", 2),
    ("history_gain", "history gain, bits/byte", 4),
    ("context_identification", "context identification", 3),
    ("num_target_tokens", "target tokens", 0),
)

_FEWEST_DIALOGUES = 10  # resampling fewer says little: of a single one, the interval has no width


def format_table(metrics: Mapping[str, Any]) -> str:
    """A table of ``metrics/eval.json``, and whether the headline's change is more than noise."""
    base, tuned, change = metrics["base"], metrics["tuned"], metrics["change"]
    lines = [f"{'validation':<26}{'base':>12}{'fine-tuned':>12}{'change':>12}"]
    for metric, title, decimals in _ROWS:
        if metric in base and metric in tuned:
            difference = tuned[metric] - base[metric]
            lines.append(
                f"{title:<26}{base[metric]:>12,.{decimals}f}{tuned[metric]:>12,.{decimals}f}"
                f"{difference:>+12,.{decimals}f}"
            )
    low, high = change["bits_per_byte_low"], change["bits_per_byte_high"]
    num_dialogues = metrics["set"]["num_dialogues"]
    verdict = "better" if high < 0 else "worse" if low > 0 else "inside the noise"
    if num_dialogues < _FEWEST_DIALOGUES:
        verdict = "too few dialogues to tell"
    lines.append(
        f"bits per byte: {change['bits_per_byte']:+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}] "
        f"over {num_dialogues} dialogues: {verdict}"
    )
    return "\n".join(lines)


def main() -> None:
    """Print the table of the file that is named on the command line."""
    path = Path(sys.argv[1])
    print(format_table(json.loads(path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
