"""Results of measuring: sums per dialogue, curves, samples, and their intervals."""
