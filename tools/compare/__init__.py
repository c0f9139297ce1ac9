"""Evaluated revisions side by side, with intervals: two, or many in a table."""
