"""The part that runs on the target: collectors, knobs and workloads.

Python 3.9, the standard library and pyudev only, shipped as one zipapp in
which this package is called `agent`; it imports nothing of the host's.
"""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.1"
