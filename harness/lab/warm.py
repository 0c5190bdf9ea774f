"""What all sessions import; harness/lab/sessions.py has the fork server import it, nobody else.

Not harness.plugin: pytest itself wants to import its plugins.
"""

import gc
import os

# A BLAS would start threads, which no fork takes along; nothing here multiplies matrices.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest  # noqa: F401

import harness.fleet
import harness.lab.report
import harness.lab.telling
import harness.masking  # noqa: F401

__all__: list[str] = []

# What is there now lives as long as the process: no collection touches, and so copies, it.
gc.collect()
gc.freeze()
