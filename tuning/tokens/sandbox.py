"""A chat template run on messages: sandboxed, within limits, always on the same day."""

from __future__ import annotations

import re
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import PreTrainedTokenizerFast

from tuning.run.errors import UserError, first_line
from tuning.tokens.messages import Message
from tuning.tokens.template import NotEncodableError

Setting = str | int | float | bool
"""The value of a variable that a template reads, such as ``enable_thinking``."""

FIXED_DATE = date(2024, 7, 26)
"""What a template that asks for today's date gets: else no run could be repeated."""
MAX_SECONDS = 20
"""A template that takes longer for one dialogue is stopped."""
MAX_CHARACTERS = 100_000_000
"""A template that writes more for one dialogue is refused."""
MAX_BYTES = 2**30
"""A template that takes so much more memory for one dialogue is stopped, on Linux."""

_MEMORY = threading.Lock()
_ARGUMENTS = frozenset({"messages", "tools", "add_generation_prompt", "chat_template", "tokenize"})
_CLOCK = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


class SandboxedTemplate:
    """Writes messages as text."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, settings: Mapping[str, Setting] | None
    ) -> None:
        """Take a tokenizer with a template, and variables for it.

        Raises:
            UserError: the template reads no such variable, or its messages are called so.
        """
        self.settings = dict(settings or {})
        self._tokenizer = tokenizer
        self._templates = {
            with_tools: _with_fixed_date(tokenizer.get_chat_template(tools=[{}] * with_tools))
            for with_tools in (False, True)
        }
        for name in self.settings:
            is_read = any(
                re.search(rf"\b{re.escape(name)}\b", text) for text in self._templates.values()
            )
            if not is_read or name in _ARGUMENTS:
                raise UserError(
                    f"encoding.template_settings: the chat template reads no variable {name!r} "
                    "that can be set; look for {%- if … %} in models/base/chat_template.jinja."
                )

    def __call__(self, messages: Sequence[Message], tools: Any, *, asks: bool) -> str:
        """Return the template's text of some messages, in transformers' sandbox.

        Args:
            messages: At least one.
            tools: The functions that the assistant may call, or None.
            asks: End with what asks for an answer.

        Raises:
            NotEncodableError: the template refuses them, or takes too long, or writes too much.
        """
        settings: dict[str, Any] = self.settings
        try:
            with _limited_memory(MAX_BYTES), _limited(MAX_SECONDS):
                text = self._tokenizer.apply_chat_template(
                    list(messages),
                    tools=tools,
                    chat_template=self._templates[bool(tools)],
                    add_generation_prompt=asks,
                    tokenize=False,
                    **settings,
                )
        except MemoryError:
            raise NotEncodableError(
                f"the chat template takes more than {MAX_BYTES / 1e9:.1f} GB of memory for it"
            ) from None
        except Exception as error:  # whatever a template does wrong
            raise NotEncodableError(f"the chat template refuses it ({first_line(error)})") from None
        assert isinstance(text, str)
        if len(text) > MAX_CHARACTERS:
            raise NotEncodableError(f"the chat template writes {len(text):,} characters for it")
        return text


def _with_fixed_date(template: str) -> str:
    """Return a template to which every day is ``FIXED_DATE``."""
    formats = {found[2]: FIXED_DATE.strftime(found[2]) for found in _CLOCK.finditer(template)}
    if not formats:
        return template
    # The last expression keeps Jinja from cutting a line end that the template begins with.
    return (
        f"{{%- set fixed_dates = {formats!r} -%}}{{%- macro strftime_now(format) -%}}"
        f"{{{{- fixed_dates[format] -}}}}{{%- endmacro -%}}{{{{ '' }}}}{template}"
    )


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """Stop what takes longer, with ``TimeoutError``; a thread that is not the main one has time.

    Python does not stop within one operation, such as a power of powers: with twice the time it
    ends the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_VIRTUAL, 2 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _limited_memory(num_bytes: int) -> Iterator[None]:
    """Raise ``MemoryError`` where the process grows by more; one thread at a time comes in."""
    if sys.platform != "linux":
        yield
        return
    with _MEMORY:
        before = resource.getrlimit(resource.RLIMIT_AS)
        num_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = num_pages * resource.getpagesize() + num_bytes
        soft, hard = (most if limit == resource.RLIM_INFINITY else limit for limit in before)
        resource.setrlimit(resource.RLIMIT_AS, (min(most, soft, hard), before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
