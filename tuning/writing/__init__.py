"""What a model writes: requests, sampling, and many replies side by side."""
