"""The run directory: what reached us, on disk before anything reads it."""
