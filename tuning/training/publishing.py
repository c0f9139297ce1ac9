"""The trained model as a folder of transformers' form: weights, config, tokenizer, template."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from tuning.language_model.loading import has_plain_attention, router_coefficient
from tuning.run.errors import UserError, first_line
from tuning.run.files import disk_errors, new_folder
from tuning.template_record import read_record


def publish(model: PreTrainedModel, tokenizer_folder: Path, target: Path) -> None:
    """Write the complete folder; the same weights give the same bytes, without paths or pickles.

    Args:
        model: Its configuration is changed in place to say how it runs, no longer how it was
            trained.
        tokenizer_folder: Copied; the template's record in it says at which tokens generation ends
            and which one pads.
        target: The folder to write.
    """
    num_bytes = sum(each.nbytes for each in model.parameters())
    with new_folder(target, num_bytes) as folder:
        _save(model, tokenizer_folder, folder)
        for file in sorted(tokenizer_folder.iterdir()):
            shutil.copyfile(file, folder / file.name)
        for file in folder.glob("*.safetensors"):
            file.chmod(0o644)  # safetensors writes 0600


def check_publishing(model: PreTrainedModel, tokenizer_folder: Path) -> None:
    """Save all but the weights for a trial, so that no training ends with what cannot be saved.

    Raises:
        UserError: transformers refuses to write the model's settings.
    """
    try:
        with torch.device("meta"):
            empty = type(model)(deepcopy(model.config))
        empty.generation_config = deepcopy(model.generation_config)
        with TemporaryDirectory() as folder, disk_errors(Path(folder)):
            _save(empty, tokenizer_folder, Path(folder), weights={})
    except OSError:
        raise
    except Exception as error:  # whatever a configuration can make of Python
        raise UserError(
            "model.name: what is trained could not be saved, for transformers cannot write this "
            f"model's configuration ({type(error).__name__}: {first_line(error)}). Mend its "
            "config.json and generation_config.json, or name another model."
        ) from error


def _save(
    model: PreTrainedModel,
    tokenizer_folder: Path,
    folder: Path,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write the model's weights, or others in their place, and its configurations."""
    record = read_record(tokenizer_folder)
    assert record is not None, "encode writes it"
    model.set_attn_implementation("sdpa" if has_plain_attention(model) else "eager")
    if router_coefficient(model):
        model.config.get_text_config().output_router_logits = True  # as the base model's says
    model.config.use_cache = True
    model.config._name_or_path = ""
    generation = model.generation_config
    for config in (model.config, generation):
        if config is not None:
            config.eos_token_id = record.stop_ids[0]
            config.pad_token_id = record.pad_id
    if generation is not None:
        generation.eos_token_id = record.stop_ids
        # save_pretrained refuses what does nothing, such as many a base's temperature without
        # sampling; written below, it stays as the base has it.
        model.generation_config = GenerationConfig()
    model.save_pretrained(folder, state_dict=weights)
    if generation is not None:
        model.generation_config = generation
        path = folder / "generation_config.json"
        generation.to_json_file(path, keys_to_pop=["compile_config"])  # as transformers does
