"""A base model's folder held to what the later stages need, without reading or drawing a weight.

Strangers wrote what stands in it. So it is asked in an order in which no answer can do harm: plain
JSON first, then the headers of the weights, then transformers, with the model on the meta device,
where tensors have shapes and no numbers: seconds and no memory, however large the model.

transformers is imported where it is used: it brings torch, which takes seconds, and what is wrong
with a name or a network is said at once.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from tuning.run.errors import UserError, first_line
from tuning.run.files import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
Shapes = Mapping[str, list[int]]
"""The shape of each tensor in the weights, by name."""

NOT_OF_THE_MODEL = {
    "_attn_implementation": None,
    "_experts_implementation": None,
    "attn_implementation": None,
    "auto_map": None,
    "configuration_files": None,
    "distributed_config": None,
    "experts_implementation": None,
    "fast_tokenizer_files": None,
    "fusion_config": None,
    "merges_file": None,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "tokenizer_file": None,
    "transformers_weights": None,
    "vocab_file": None,
}
"""Settings by which a model's files say how it is run, or name code, kernels and other files; each
with the value at which it does nothing."""
COUNTS = re.compile(r"(num|n|encoder|decoder)_.*(layer|head|expert|label)")
"""Names of settings that say how many times something is built."""


def leave_out_settings(name: str, folder: Path) -> list[str]:
    """Take settings that are not the model's out of its files; return the names of those found.

    A file without any keeps its bytes.

    Raises:
        UserError: one of the files holds no JSON object.
    """
    left_out: list[str] = []
    for path in (folder / CONFIG, folder / TOKENIZER_CONFIG):
        if path.exists():
            content = read_object(name, path)
            if found := sorted(set(_take_out(content))):
                write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
                left_out += [f"{path.name}: {key}" for key in found]
    return left_out


def check_model(name: str, folder: Path) -> None:
    """Hold the folder to what the later stages need: a causal language model that can be trained.

    Raises:
        UserError: a file is missing or damaged, the architecture is not a causal language model of
            transformers, the weights are quantised or not exactly those that the configuration asks
            for, or there is no fast tokenizer of the model's own tokens.
    """
    present = {path.name for path in folder.iterdir()}
    if CONFIG not in present:
        raise _unusable(name, "it has no config.json.")
    if not any(file.endswith(".safetensors") for file in present):
        raise _unusable(
            name,
            "it has no model.safetensors, and other weight formats can run code when read. Convert "
            "it where you trust it (save_pretrained writes safetensors) and name that folder.",
        )
    # Without this, transformers makes up a GPT-2 tokenizer that knows one token.
    if "tokenizer.json" not in present and not {"vocab.json", "merges.txt"} <= present:
        raise _unusable(
            name, "it has no fast tokenizer (tokenizer.json, or vocab.json and merges.txt)."
        )
    settings = {path.name: read_object(name, path) for path in sorted(folder.glob("*.json"))}
    shapes = shapes_of_weights(name, folder, settings.get(INDEX))
    _check_counts(name, settings[CONFIG], shapes)
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    kind = settings[CONFIG].get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise _unusable(
            name,
            f"transformers has no models of the kind that its config.json names ({kind!r}), and "
            "code that comes with a model is never run.",
        )
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        config, tokenizer = _load_small_files(folder)
    except Exception as error:  # tokenizers raises Exception itself.
        why = _told(error).replace(str(folder), name)
        raise _unusable(name, f"transformers cannot load it ({why}).") from None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        more = (
            ": it reads more than text, and transformers has no class for its text part alone. "
            "Name a model of text alone"
        )
        what = more if "text_config" in settings[CONFIG] else ""
        raise _unusable(name, f"{config.model_type!r} is not a causal language model{what}.")
    if getattr(config, "quantization_config", None) is not None:
        raise _unusable(name, "its weights are quantised; name the unquantised original.")
    if not tokenizer.is_fast:
        raise _unusable(name, "its tokenizer has no fast form (tokenizer.json).")
    try:
        num_rows, faults = _compare(config, shapes)
    except Exception as error:  # whatever a configuration can make of Python
        raise _unusable(name, f"its config.json makes no model ({_told(error)}).") from None
    if faults:
        raise _unusable(
            name,
            f"its weights are not those of its config.json: {'; '.join(faults)}. Download or save "
            "it again, weights and configuration together.",
        )
    ends = settings.get(GENERATION, {}).get("eos_token_id")
    _check_tokens(name, tokenizer, ends, num_rows)


def _load_small_files(folder: Path) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Have transformers read all but the weights, as the later stages do."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    if tokenizer.chat_template is not None:
        for num_tools in (0, 1):
            if not isinstance(tokenizer.get_chat_template(tools=[{}] * num_tools), str):
                raise TypeError("its chat template is no text")
    if (folder / GENERATION).exists():
        GenerationConfig.from_pretrained(folder, local_files_only=True)
    return config, tokenizer


def _compare(config: PreTrainedConfig, shapes: Shapes) -> tuple[int, list[str]]:
    """Build the model on the meta device, and say where its weights differ from those there are.

    Returns how many rows its embeddings have, too.
    transformers itself reports, so what it ties, renames, merges or passes over is none.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    text = config.get_text_config()
    for count in ("num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
        number = getattr(text, count, None)
        if isinstance(number, int) and number < 1:
            raise ValueError(f"{count} is {number}")
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    model, report = type(built).from_pretrained(
        None,
        config=built.config,
        state_dict=weights,
        dtype=torch.float32,
        attn_implementation="eager",  # which every model has
        device_map="meta",
        ignore_mismatched_sizes=True,  # they are in the report
        output_loading_info=True,
    )
    faults = [
        f"{key} has the shape {list(found)}, wanted {list(wanted)}"
        for key, found, wanted in sorted(report["mismatched_keys"])[:1]
    ]
    for kind, keys in (("missing", "missing_keys"), ("unexpected", "unexpected_keys")):
        if names := sorted(report[keys]):
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            faults.append(f"{names[0]}{more} {kind}")
    embeddings = model.get_input_embeddings().weight
    assert isinstance(embeddings, torch.Tensor)
    return len(embeddings), [*faults, *report["error_msgs"][:1]]


def shapes_of_weights(name: str, folder: Path, index: Mapping[str, Any] | None) -> Shapes:
    """Read the headers of the weights; opening a file compares its header with its length.

    Raises:
        UserError: a file is missing or damaged, or the index names one that is not beside it.
    """
    shapes: dict[str, list[int]] = {}
    is_single = index is None or (folder / WEIGHTS).is_file()
    for file in [WEIGHTS] if is_single else _shards(name, index or {}):
        try:
            with safe_open(folder / file, framework="np") as weights:
                shapes |= {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            is_there = (folder / file).exists()
            found = f"damaged ({first_line(error)})" if is_there else "missing"
            raise _unusable(name, f"{file} is {found}.") from None
    return shapes


def _shards(name: str, index: Mapping[str, Any]) -> list[str]:
    """The files that the index lists, which are plain names of files beside it."""
    files = index.get("weight_map")
    if not isinstance(files, dict) or not files or not isinstance(index.get("metadata"), dict):
        raise _unusable(name, f"{INDEX} lacks a weight_map, or metadata (at least {{}}).")
    for file in files.values():
        if not isinstance(file, str) or not re.fullmatch(r"model-[\w-]+\.safetensors", file):
            raise _unusable(
                name,
                f"{INDEX} names {file!r}; wanted names such as model-00001-of-00002.safetensors, "
                "of files beside it.",
            )
    return sorted(set(files.values()))


def _check_counts(name: str, settings: Mapping[str, Any], shapes: Shapes) -> None:
    """Refuse what would be built without end, before anything is built.

    A layer has a tensor at least; what else is counted is a size in one of them.
    """
    most = max([len(shapes), *(size for shape in shapes.values() for size in shape)])
    for key, value in _all_settings(settings):
        limit = len(shapes) if "layer" in key else most
        if COUNTS.match(key) and isinstance(value, int) and value > limit:
            raise _unusable(
                name,
                f"config.json says {key}: {value}, and the weights are {len(shapes):,} tensors, "
                f"of which none has a size above {most:,}.",
            )


def _check_tokens(
    name: str, tokenizer: PreTrainedTokenizerBase, ends: object, num_rows: int
) -> None:
    """Hold every token that is read, and those at which generation ends, to the embeddings."""
    token, last = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if last >= num_rows:
        raise _unusable(
            name,
            f"its tokenizer has the token {token!r} with id {last}, and its embeddings have "
            f"{num_rows:,} rows. Take it out of the tokenizer's files or give the model its row.",
        )
    for end in ends if isinstance(ends, list) else [ends]:
        if end is not None and (type(end) is not int or not 0 <= end < num_rows):
            raise _unusable(name, f"{GENERATION} says eos_token_id: {end!r}, which is no token.")


def read_object(name: str, path: Path) -> dict[str, Any]:
    """Read a model's settings.

    Raises:
        UserError: the file holds no JSON object.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _unusable(name, f"{path.name} is not JSON ({_told(error)}).") from None
    if not isinstance(content, dict):
        raise _unusable(name, f"{path.name} holds no JSON object.")
    return content


def _take_out(settings: dict[str, Any]) -> Iterator[str]:
    """Remove what is not of the model, in sections too; yield the names."""
    for key, value in list(settings.items()):
        if key in NOT_OF_THE_MODEL:
            del settings[key]
            if value != NOT_OF_THE_MODEL[key]:
                yield key
        elif isinstance(value, dict):
            yield from _take_out(value)


def _all_settings(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _all_settings(value)
        else:
            yield key, value


def _told(error: Exception) -> str:
    """Say what kind an exception is, and its first lines: that of a check names the cause below."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, " ".join(lines[:2])[:300]])


def _unusable(name: str, why: str) -> UserError:
    return UserError(f"model {name} cannot be used: {why}")
