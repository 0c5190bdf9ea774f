"""What differs between GPU drivers, on the host's side.  Opens no socket."""

from __future__ import annotations

from harness.errors import UsageError
from harness.gpu.amdgpu import Amdgpu
from harness.gpu.base import Backend
from harness.gpu.i915 import I915

__all__ = ["Backend", "backend_for"]


def backend_for(driver: str) -> Backend:
    """The back end of `driver`.  Raises UsageError where there is none yet."""
    backends: dict[str, Backend] = {"amdgpu": Amdgpu(), "i915": I915()}
    if driver not in backends:
        raise UsageError(
            f"no workloads for driver {driver!r} yet: the target can be observed, not hung",
            cure=f"drivers with workloads: {', '.join(sorted(backends))}",
        )
    return backends[driver]
