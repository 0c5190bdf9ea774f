"""What submits to GPUs: one process each, unprivileged, one module a driver.

DRIVERS maps the driver's name, as in sysfs, to its module here; kms is any
driver's display, generic what needs no GPU.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COMM", "DRIVERS"]

DRIVERS: Mapping[str, str] = {
    "amdgpu": ".amdgpu",
    "i915": ".i915",
    "kms": ".kms",
    "generic": ".generic",
}
"""A name with a leading dot is a module of this package."""

COMM = "lab-"
"""What the name of a workload's main thread, which does the waiting, begins with."""
