"""The stages of the pipeline, a module each: fetch, prep, encode, train, score, eval, release."""

import tuning  # noqa: F401 - first of all it notes the parent process, before slow imports
