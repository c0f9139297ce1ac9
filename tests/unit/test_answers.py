"""A model that was trained below system texts alone answers with one and without.

It is asked as a server asks it: by the published folder's own chat template.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from stages.encode import encode
from stages.prep import prepare
from tests.corpora import data_params, encoding_params
from tests.tiny_model import SMALL_TRAIN, make_tiny_llama
from tuning.language_model.device import Device
from tuning.template_record import read_record
from tuning.training.loss import PackedLoss
from tuning.training.publishing import publish
from tuning.training.rows import PackedRows
from tuning.training.start import load_for_training
from tuning.training.trainer import fine_tune

CPU = Device(kind="cpu", precision="no", compiled=False, notes=())
MAX_LENGTH = 64
NUM_SHOPS = 200
THINGS = "apple book cup drum egg fork game hat ink jug key lamp map net oar pen rope saw tie urn"
PLACES = (
    "attic barn cave door east farm gate hall inn jetty kiosk lake mill north oven pond quay river "
    "shed tower"
)
ANSWERS = {
    f"Where is the {thing}?": f"Look at the {place}."
    for thing, place in zip(THINGS.split(), PLACES.split(), strict=True)
}
"""By question; the same in every shop."""


def system_message(shop: int) -> dict[str, str]:
    return {"role": "system", "content": f"You work for shop number {shop}."}


def record(shop: int) -> dict[str, object]:
    """Two questions and their answers, below a system text."""
    messages = [system_message(shop)]
    for question in random.Random(shop).sample([*ANSWERS], 2):
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": ANSWERS[question]})
    return {"messages": messages}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model trained on what comes of such records, as training publishes it."""
    folder: Path = tmp_path_factory.mktemp("answers")
    data, base, parts, encoded = (folder / n for n in ("data.jsonl", "base", "parts", "encoded"))
    data.write_text("".join(json.dumps(record(shop)) + "\n" for shop in range(NUM_SHOPS)))
    make_tiny_llama(base, [system_message(0)["content"], *ANSWERS, *ANSWERS.values()])
    parts.mkdir()
    encoded.mkdir()
    prepare(data, data_params(near_duplicate_threshold=1.0, min_turns=2), parts)
    encoding = encoding_params(max_length=MAX_LENGTH, loss_on="auto")
    encode(parts, base, encoded, encoding, 0, has_roles=True)
    found = read_record(encoded / "tokenizer")
    assert found is not None
    rows = PackedRows(encoded, max_length=MAX_LENGTH, packing=True, pad_token_id=found.pad_id)
    set_seed(7)
    model = load_for_training(base, encoded / "tokenizer", MAX_LENGTH)
    train = SMALL_TRAIN.model_copy(
        update={"epochs": 20, "batch_size": 8, "gradient_accumulation_steps": 1}
    )
    fine_tune(
        PackedLoss(model, CPU),
        rows,
        train,
        seed=7,
        device=CPU,
        checkpoints=None,
        checkpoint_minutes=60,
    )
    publish(model, encoded / "tokenizer", folder / "model")
    return folder / "model"


@pytest.mark.parametrize("with_system", [True, False])
def test_every_question_is_answered_with_a_system_text_and_without(
    published: Path, with_system: bool
) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(published)
    model: Any = AutoModelForCausalLM.from_pretrained(published)
    answers = {}
    for number, question in enumerate(ANSWERS):
        chat = [system_message(NUM_SHOPS + number)] if with_system else []
        chat.append({"role": "user", "content": question})
        ids = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            written = model.generate(**ids, max_new_tokens=20, do_sample=False)[0]
        answers[question] = tokenizer.decode(written[ids["input_ids"].shape[1] :])
    assert answers == {q: f"{answer}<|endofturn|>" for q, answer in ANSWERS.items()}
