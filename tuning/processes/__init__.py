"""One run in several processes: how they start, what they share, a model in parts."""
