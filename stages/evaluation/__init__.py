"""Weights to numbers: perplexity, context retention, coherence, samples, intervals."""
