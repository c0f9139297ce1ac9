"""Tools beside the pipeline, a module each: ``python -m tools.compare`` and others."""

import tuning  # noqa: F401 - first of all it notes the parent process, before slow imports
