"""Context retention: how much the history helps a model to predict a response."""

from __future__ import annotations

from stages.evaluation.perplexity import ResponseScores, bits_per_byte


def history_gain(with_history: ResponseScores, without_history: ResponseScores) -> float:
    """Bits per content byte that the history saves (higher is better, 0 ignores it).

    Corpus level: Σ [NLL(r | nothing) − NLL(r | all turns before)] / (ln 2 · Σ bytes). After Sankar
    et al. 2019, section 3, who perturb the history and measure the change in perplexity.
    """
    assert (with_history.num_bytes == without_history.num_bytes).all()
    return bits_per_byte(
        without_history.content_nll - with_history.content_nll, with_history.num_bytes
    )
