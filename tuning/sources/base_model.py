"""The base model as one plain folder: config.json, safetensors weights, a fast tokenizer.

Three origins (a hub repository at a commit, a local folder, a GGUF file) end in the same layout and
pass the same check. Weights keep the bytes they came with; only GGUF is dequantised, to float32.

transformers is imported where it is used: it brings torch, which takes seconds, and what is wrong
with a name or a network is said at once.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
from contextlib import redirect_stderr
from fnmatch import fnmatch
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tuning.run.errors import UserError, first_line
from tuning.run.files import write_json
from tuning.sources.hub import Repository

# No pickles, no code, and no second copy of the weights (onnx/, model.fp16.safetensors).
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
)


def from_hub(name: str, revision: str, folder: Path) -> None:
    """Download the files of hub repository ``name`` at the commit ``revision`` into ``folder``.

    Raises:
        UserError: the repository, the commit or the network is not there, access is restricted, or
            a weight file's SHA-256 is not the one that the hub announces.
    """
    repository = Repository(
        kind="model",
        name=name,
        revision=revision,
        key="model",
        instead="set model.name to a local folder",
    )
    repository.download(MODEL_FILES, folder)


def from_folder(source: Path, folder: Path) -> None:
    """Copy the model files of a local folder; everything else in it is left behind."""
    for path in sorted(source.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in MODEL_FILES):
            shutil.copyfile(path, folder / path.name)


def from_gguf(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file to float32 safetensors; its tokenizer comes with it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Its progress bar is a plain tqdm, which none of transformers' switches reach.
    with redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype="float32"
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # The weights are plain float32 now; with these two set, save_pretrained refuses.
        del model.config.quantization_config
        del model.hf_quantizer
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes 0600.
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    for how_it_was_loaded in ("is_local", "local_files_only"):
        tokenizer_config.pop(how_it_was_loaded, None)
    write_json(folder / "tokenizer_config.json", tokenizer_config)


def check_model(name: str, folder: Path) -> None:
    """Hold the folder to what the later stages need: a causal language model that can be trained.

    Raises:
        UserError: a file is missing or damaged, the architecture is not a causal language model of
            transformers, the weights are quantised, or there is no fast tokenizer.
    """
    present = {path.name for path in folder.iterdir()}
    if "config.json" not in present:
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
    for file in _weight_files(folder):
        try:
            with safe_open(folder / file, framework="np"):
                pass  # Opening compares the header with the file's length.
        except (OSError, SafetensorError) as error:
            found = f"damaged ({first_line(error)})" if file in present else "missing"
            raise _unusable(name, f"{file} is {found}.") from None
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoTokenizer

    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # tokenizers raises Exception itself.
        why = f"{type(error).__name__}: {first_line(error)}".replace(str(folder), name)
        raise _unusable(name, f"transformers cannot load it ({why}).") from None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _unusable(name, f"{config.model_type!r} is not a causal language model.")
    if getattr(config, "quantization_config", None) is not None:
        raise _unusable(name, "its weights are quantised; name the unquantised original.")
    if not tokenizer.is_fast:
        raise _unusable(name, "its tokenizer has no fast form (tokenizer.json).")


def _weight_files(folder: Path) -> list[str]:
    """The file that holds the weights, or the shards that the index lists."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return ["model.safetensors"]
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def _unusable(name: str, why: str) -> UserError:
    return UserError(f"model {name} cannot be used: {why}")
