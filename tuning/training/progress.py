"""The progress that a training shows and measures while it runs: bar, speed, metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tuning.progress import Bar

STEPS_BEFORE_ESTIMATE = 3
"""The first step compiles, so it says nothing of the others."""


@dataclass
class Timing:
    """Wall-clock figures of this process; a resumed run covers only its own steps."""

    first_step_seconds: float = 0.0
    """Seconds from the start of training to the end of the first step: mostly compilation."""
    seconds: float = 0.0
    """Seconds of all steps, checkpoints and validations included."""
    seconds_per_step: float = 0.0
    """Mean seconds of the steps from the second on, checkpoints and validations included."""
    tokens_per_second: float = 0.0
    """Target tokens over time, from the second step on."""
    row_tokens_per_second: float = 0.0
    """The same for all tokens of all rows, context and padding included."""
    num_steps: int = 0
    """Optimizer steps in this process."""


class Progress:
    """What is shown of the steps, and the timing."""

    def __init__(
        self, *, first_step: int, num_steps: int, shown: bool, peak_memory: Callable[[], float]
    ) -> None:
        """Start the clock before step ``first_step`` (from 0); ``peak_memory`` is in gigabytes."""
        self.timing = Timing()
        self._num_steps_left = num_steps - first_step
        self._peak_memory = peak_memory
        self._start = self._first_end = time.monotonic()
        self._num_target_tokens = self._num_row_tokens = 0
        self._bar = Bar("train", "steps", num_steps, initial=first_step, shown=shown)

    def step(self, loss: float, num_target_tokens: int, num_row_tokens: int) -> None:
        """Count one optimizer step."""
        now = time.monotonic()
        timing = self.timing
        timing.num_steps += 1
        timing.seconds = now - self._start
        if timing.num_steps == 1:
            timing.first_step_seconds = timing.seconds
            self._first_end = now
            self._bar.update(1, f"loss {loss:.3f}", is_usual=False)  # most of it was compiling
        else:
            self._num_target_tokens += num_target_tokens
            timing.seconds_per_step = (now - self._first_end) / (timing.num_steps - 1)
            self._num_row_tokens += num_row_tokens
            timing.row_tokens_per_second = self._num_row_tokens / (now - self._first_end)
            timing.tokens_per_second = self._num_target_tokens / (now - self._first_end)
            self._bar.update(1, f"loss {loss:.3f}, {timing.tokens_per_second:.0f} tokens/s")
        if timing.num_steps == STEPS_BEFORE_ESTIMATE and self._num_steps_left > timing.num_steps:
            left = self._num_steps_left - timing.num_steps
            self.say(
                f"{left:,} more steps take about {left * timing.seconds_per_step / 60:.0f} min; "
                f"{self._peak_memory():.1f} GB of memory so far"
            )

    def say(self, message: str) -> None:
        """Print a line without breaking the bar."""
        self._bar.say(message)

    def close(self) -> None:
        """Stop the clock and end the bar."""
        self.timing.seconds = time.monotonic() - self._start
        self._bar.close()
