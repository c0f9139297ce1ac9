"""The result in a few lines: base, fine-tuned, change."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# metric, its name in the table, decimals, whether lower is better (None: neither)
_ROWS: tuple[tuple[str, str, int, bool | None], ...] = (
    ("bits_per_byte", "bits per byte", 4, True),
    ("perplexity", "perplexity", 2, True),
    ("end_of_turn_nll", "end-of-turn nats", 3, True),
    ("history_gain", "history gain, bits/byte", 4, False),
    ("context_identification", "context identification", 3, False),
    ("num_target_tokens", "target tokens", 0, None),
)


def format_table(metrics: Mapping[str, Any]) -> str:
    """A table of ``metrics/eval.json``, with the interval of the headline's change below it."""
    base, tuned, change = metrics["base"], metrics["tuned"], metrics["change"]
    lines = [f"{'validation':<26}{'base':>12}{'fine-tuned':>12}{'change':>12}"]
    for metric, title, decimals, lower_is_better in _ROWS:
        if metric not in base or metric not in tuned:
            continue
        row = f"{title:<26}{base[metric]:>12,.{decimals}f}{tuned[metric]:>12,.{decimals}f}"
        if lower_is_better is not None:
            difference = tuned[metric] - base[metric]
            row += f"{difference:>+12,.{decimals}f}"
            row += "  better" if (difference < 0) is lower_is_better else "  worse"
        lines.append(row)
    low, high = change["bits_per_byte_low"], change["bits_per_byte_high"]
    verdict = "inside the noise" if low <= 0 <= high else "outside the noise"
    lines.append(
        f"change in bits per byte: {change['bits_per_byte']:+.4f}, 95 % interval "
        f"[{low:+.4f}, {high:+.4f}] over {metrics['set']['num_dialogues']} dialogues: {verdict}"
    )
    return "\n".join(lines)


def main() -> None:
    """Print the table of the file that is named on the command line."""
    path = Path(sys.argv[1])
    print(format_table(json.loads(path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
