"""A fine-tuned model as one GGUF file, for llama.cpp, with a Modelfile for Ollama beside it."""

WEIGHTS_KEY = "tuning.weights_sha256"
"""Under which a file says of which weights it is the export."""
