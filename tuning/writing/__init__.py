"""Writing with a model: requests, sampling, and many replies side by side."""
