"""Do the coherence scores agree with people? Rank correlations with human ratings of responses.

    python -m benchmarks.meta_evaluation --ratings topical_chat_ratings.json --model models/base

The ratings are UniEval's file of Topical-Chat responses (Zhong et al. 2022; the ratings are those
of Mehri and Eskenazi 2020): a list of records with ``source`` (a turn per line), ``system_output``
and ``scores``. A model whose tokenizer has the speaker tokens reads them, any other reads ``A: …``,
``B: …`` lines. A score that agrees less than a response's length does measures nothing beyond it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from tuning.dialogue import Dialogue, Turn
from tuning.language_model.device import set_threads
from tuning.results.dialogue_table import FloatArray, IntArray
from tuning.scoring.coherence import score_candidates
from tuning.scoring.nats import score
from tuning.tokens.templates import template_of

DIMENSIONS = ("overall", "coherence")
NUM_FOREIGN_CONTEXTS = 2
"""Other contexts, of about as many turns, that a response is scored after as well."""


def main() -> None:
    """Print a table: a score per row, a dimension of the ratings per column."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratings", type=Path, required=True, help="rated responses, JSON")
    parser.add_argument("--model", type=Path, required=True, help="a model's folder")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--num-resamples", type=int, default=1000)
    args = parser.parse_args()
    set_threads(args.num_threads)
    records = json.loads(args.ratings.read_text(encoding="utf-8"))
    template = template_of(args.model)
    contexts = sorted(
        {record["source"] for record in records}, key=lambda text: (text.count("\n"), text)
    )
    context_of = np.array([contexts.index(record["source"]) for record in records])
    responses = [record["system_output"].strip() for record in records]
    num_bytes = np.array([float(len(response.encode())) for response in responses])
    model = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.float32, local_files_only=True
    )

    members = [np.flatnonzero(context_of == number) for number in range(len(contexts))]

    def nats(shift: int = 0, *, with_history: bool = True) -> FloatArray:
        """Nats of each response, after the context that stands ``shift`` behind its own."""
        scores = score(
            model,
            score_candidates(
                template,
                [
                    _as_dialogue(contexts[(number + shift) % len(contexts)])
                    for number in range(len(contexts))
                ],
                [[responses[row] for row in rows] for rows in members],
                with_history=with_history,
            ),
            batch_size=args.batch_size,
        )
        nll: FloatArray = np.empty(len(responses))
        nll[np.concatenate(members)] = np.concatenate(scores)
        return nll

    own, alone = nats(), nats(with_history=False)
    foreign = np.mean([nats(shift) for shift in range(1, NUM_FOREIGN_CONTEXTS + 1)], axis=0)
    scores = {
        "response length, bytes": num_bytes,
        "response length, words": np.array([float(len(text.split())) for text in responses]),
        "TF-IDF similarity to context": tfidf_similarity(contexts, context_of, responses),
        "log p(r|c) - log p(r)": alone - own,
        "  per byte (nothing)": (alone - own) / num_bytes,
        "log p(r|c) - log p(r|other c)": foreign - own,
        "  per byte (other c)": (foreign - own) / num_bytes,
        "log p(r|c) per byte": -own / num_bytes,
    }
    print(f"{len(records)} responses to {len(contexts)} contexts; {type(template).__name__}")
    print("Spearman with ratings [95 % interval] (the same at equal length in bytes)")
    print(f"{'':<32}" + "".join(f"{name:>34}" for name in DIMENSIONS))
    for name, values in scores.items():
        cells = []
        for dimension in DIMENSIONS:
            ratings = np.array([record["scores"][dimension] for record in records])
            low, high = interval(values, ratings, context_of, num_resamples=args.num_resamples)
            cell = f"{spearman(values, ratings):+.3f} [{low:+.3f}, {high:+.3f}]"
            if not name.startswith("response length"):
                cell += f" ({partial_spearman(values, ratings, num_bytes):+.3f})"
            cells.append(cell)
        print(f"{name:<32}" + "".join(f"{cell:>34}" for cell in cells))


def spearman(first: FloatArray, second: FloatArray) -> float:
    """Correlation of ranks; equal values share their mean rank."""
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def partial_spearman(first: FloatArray, second: FloatArray, given: FloatArray) -> float:
    """``spearman`` of what is left of both once the ranks of ``given`` are accounted for."""
    both, one, other = spearman(first, second), spearman(first, given), spearman(second, given)
    return float((both - one * other) / np.sqrt((1 - one**2) * (1 - other**2)))


def ranks(values: FloatArray) -> FloatArray:
    """Ranks from 1, mean rank for equal values."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    means: FloatArray = last - (counts - 1) / 2
    return means[inverse]


def interval(
    first: FloatArray, second: FloatArray, group: IntArray, *, num_resamples: int
) -> tuple[float, float]:
    """95 % percentile interval of ``spearman``; whole contexts are resampled."""
    generator = np.random.default_rng(0)
    members = [np.flatnonzero(group == name) for name in np.unique(group)]
    draws = []
    for _ in range(num_resamples):
        chosen = generator.integers(len(members), size=len(members))
        rows = np.concatenate([members[index] for index in chosen])
        draws.append(spearman(first[rows], second[rows]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def tfidf_similarity(
    contexts: Sequence[str], context_of: IntArray, responses: Sequence[str]
) -> FloatArray:
    """Cosine of each response and its context: word counts times ln(N / documents with it) + 1."""
    documents = [Counter(re.findall(r"\w+", text.lower())) for text in (*contexts, *responses)]
    document_frequency = Counter(word for document in documents for word in document)
    weights = [
        {
            word: count * (np.log(len(documents) / document_frequency[word]) + 1)
            for word, count in document.items()
        }
        for document in documents
    ]
    norms = [np.sqrt(sum(weight**2 for weight in document.values())) for document in weights]
    similarities = []
    for number, context in enumerate(context_of.tolist()):
        response = len(contexts) + number
        shared = weights[context].keys() & weights[response].keys()
        product = sum(weights[context][word] * weights[response][word] for word in shared)
        similarities.append(product / (norms[context] * norms[response] or 1.0))
    return np.array(similarities)


def _as_dialogue(source: str) -> Dialogue:
    """Two speakers who take turns, a line each; the last turn is the response's place."""
    lines = [line.strip() for line in source.strip().splitlines()]
    return Dialogue("", tuple(Turn("AB"[i % 2], line) for i, line in enumerate([*lines, ""])))


if __name__ == "__main__":
    main()
