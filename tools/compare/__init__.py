"""Two evaluated revisions side by side, with intervals."""
