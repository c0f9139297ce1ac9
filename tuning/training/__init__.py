"""The training loop, its objective, and what it starts from and leaves."""
