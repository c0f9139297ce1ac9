"""The checks before an hour is spent; ``python -m tools.preflight`` runs all of them."""
