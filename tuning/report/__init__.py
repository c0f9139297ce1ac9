"""What follows from the scores: headlines, quality of writing, pages to look at."""
