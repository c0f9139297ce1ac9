"""The trained model as a folder of transformers' form: weights, config, tokenizer, template."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from tuning.run.files import new_folder
from tuning.template_record import read_record


def publish(
    model: PreTrainedModel,
    tokenizer_folder: Path,
    target: Path,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the complete folder; the same weights give the same bytes, without paths or pickles.

    Args:
        model: Its configuration is changed in place to say how it runs, no longer how it was
            trained.
        tokenizer_folder: Copied; the template's record in it says at which tokens generation ends
            and which one pads.
        target: The folder to write.
        weights: Written in place of the model's own, of which a process may hold only a part.
    """
    record = read_record(tokenizer_folder)
    assert record is not None, "encode writes it"
    model.set_attn_implementation("sdpa")
    model.config.use_cache = True
    model.config._name_or_path = ""
    for config in (model.config, model.generation_config):
        if config is not None:
            config.eos_token_id = record.stop_ids[0]
            config.pad_token_id = record.pad_id
    if model.generation_config is not None:
        model.generation_config.eos_token_id = record.stop_ids
    with new_folder(target) as folder:
        model.save_pretrained(folder, state_dict=dict(weights) if weights else None)
        for file in sorted(tokenizer_folder.iterdir()):
            shutil.copyfile(file, folder / file.name)
        for file in folder.glob("*.safetensors"):
            file.chmod(0o644)  # safetensors writes 0600
