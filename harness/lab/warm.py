"""What all sessions import; harness/lab/sessions.py has the fork server import it, nobody else.

Not harness.plugin: pytest itself wants to import its plugins.
"""

import gc
import importlib
import os

__all__: list[str] = []

SHARED = ("pytest", "harness.fleet", "harness.lab.report", "harness.lab.telling", "harness.masking")

# A BLAS would start threads, which no fork takes along; nothing here multiplies matrices.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
for name in SHARED:
    importlib.import_module(name)
# What is there now lives as long as the process: no collection touches, and so copies, it.
gc.collect()
gc.freeze()
