"""The results that follow from the scores: headlines, quality of writing, pages to look at."""
