"""Responses of two sides, judged blind: by people on a page, or by a model."""
