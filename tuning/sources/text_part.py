"""The text part of a model that reads images or sounds too, as a folder of its own.

Such a checkpoint holds a whole language model: ``text_config`` in its configuration, and among its
weights those whose names have ``language_model`` in them. Taken out, they keep their bytes, and all
later stages see a model of text alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from tuning.run.files import write_text
from tuning.sources.model_check import (
    CONFIG,
    INDEX,
    TOKENIZER_CONFIG,
    WEIGHTS,
    read_object,
    shapes_of_weights,
)

PART = "language_model"
OF_BOTH = ("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype")
"""Settings that may be said of the whole model alone."""
PROCESSOR = "processor_class"


def take_text_part(name: str, folder: Path) -> int:
    """Reduce a model's folder to its text part, if transformers has a class for that.

    Returns:
        The number of tensors that were left out; 0 for a model of text alone.

    Raises:
        UserError: its weights are damaged, or a file is missing.
    """
    path = folder / CONFIG
    config = read_object(name, path) if path.exists() else {}
    text = config.get("text_config")
    if not isinstance(text, dict) or (architecture := _causal_class(text)) is None:
        return 0
    index = folder / INDEX
    shapes = shapes_of_weights(name, folder, read_object(name, index) if index.exists() else None)
    names = {key: own for key in shapes if (own := name_in_text_part(key)) is not None}
    if not any(PART in key for key in names):
        return 0
    if (folder / WEIGHTS).exists():
        _reduce(folder / WEIGHTS, names)
    else:
        _reduce_shards(index, names)
    text |= {key: config[key] for key in OF_BOTH if key in config and text.get(key) is None}
    said = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    text["tie_word_embeddings"] = said or "lm_head.weight" not in names.values()
    _write(path, text | {"architectures": [architecture]})
    path = folder / TOKENIZER_CONFIG
    if path.exists() and PROCESSOR in (settings := read_object(name, path)):
        del settings[PROCESSOR]  # of images; servers load no folder that lacks it
        _write(path, settings)
    return len(shapes) - len(names)


def name_in_text_part(key: str) -> str | None:
    """Return a tensor's name in the text model; None: it belongs to another part.

    Libraries have written ``language_model.model.layers…`` and ``model.language_model.layers…``.
    """
    parts = key.split(".")
    if PART in parts:
        parts.remove(PART)
    elif parts[0] != "lm_head":
        return None
    return ".".join(parts if parts[0] in ("model", "lm_head") else ["model", *parts])


def _causal_class(text: Mapping[str, Any]) -> str | None:
    """Name transformers' class of language models for such a text part."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    kind = text.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        return None
    found: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(CONFIG_MAPPING[kind], None)
    return None if found is None else str(found.__name__)


def _reduce(weights: Path, names: Mapping[str, str]) -> None:
    """Keep the tensors that have a name in the text part; without any, the file goes."""
    from safetensors.torch import save_file

    with safe_open(weights, framework="pt") as old:
        tensors = {names[key]: old.get_tensor(key) for key in old.keys() if key in names}  # noqa: SIM118
    weights.unlink()
    if tensors:
        save_file(tensors, weights, metadata={"format": "pt"})
        weights.chmod(0o644)  # safetensors writes 0600


def _reduce_shards(index: Path, names: Mapping[str, str]) -> None:
    content = json.loads(index.read_bytes())
    files = content["weight_map"]
    for file in sorted(set(files.values())):
        _reduce(index.parent / file, names)
    content["weight_map"] = {own: files[key] for key, own in names.items()}
    content["metadata"].pop("total_size", None)
    _write(index, content)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
