"""What ``transformers serve`` feeds a model, by its own code and without a port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoProcessor
from transformers.cli.serving.utils import BaseHandler, Modality

from tuning.run.errors import first_line


def feed(folder: Path, bodies: Sequence[Mapping[str, Any]]) -> list[list[int] | str] | str:
    """Return the ids that a model is fed for each body, or why there are none; or for none of them.

    Source: ``ChatCompletionHandler.handle_request`` in transformers.cli.serving.chat_completion.
    """
    try:
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        why = first_line(error).partition(". ")[0].replace(str(folder), "the folder")
        return f"it cannot load the model ({why})"
    return [_tokens(processor, body) for body in bodies]


def left_out(body: Mapping[str, Any]) -> list[str]:
    """Name the parts of messages that the server leaves out before the template sees them."""
    messages = body["messages"]
    kept = BaseHandler.get_processor_inputs_from_messages(messages, Modality.LLM)
    parts = {"name": "names", "reasoning_content": "thoughts", "content": "texts beside calls"}
    return [
        title
        for key, title in parts.items()
        if any(
            message.get(key) and not served.get(key)
            for message, served in zip(messages, kept, strict=True)
        )
    ]


def _tokens(processor: Any, body: Mapping[str, Any]) -> list[int] | str:
    messages = BaseHandler.get_processor_inputs_from_messages(body["messages"], Modality.LLM)
    try:
        inputs = processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tools=body.get("tools"),
            return_dict=True,
            tokenize=True,
            **body.get("chat_template_kwargs", {}),
        )
    except Exception as error:  # whatever a template does wrong
        return f"it refuses the messages ({first_line(error)})"
    ids: list[int] = inputs["input_ids"]
    return ids
