"""What was measured: sums per dialogue, curves, samples, and their intervals."""
