"""`python -m harness.labgrid.pdu MODEL HOST INDEX on|off|query`: a PDU that labgrid can switch.

labgrid's back ends block as long as they like and raise what they like; in a process of its own
that is a power command like any other.  `query` prints on or off.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from urllib.parse import urlsplit

from harness.errors import HarnessError, UsageError

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Do it; the exit status."""
    try:
        model, host, index, action = argv
        backend = import_module(f"labgrid.driver.power.{model}")
    except ValueError:
        raise UsageError("needs MODEL HOST INDEX on|off|query") from None
    except ImportError as error:
        raise UsageError(
            f"labgrid cannot switch a {argv[0]!r} here: {error}",
            where="NetworkPowerPort.model",
            cure='see labgrid\'s documentation of NetworkPowerPort; pip install "labgrid[snmp]"?',
        ) from error
    # As labgrid's NetworkPowerDriver calls them: a back end with a port of its own gets a bare
    # host and that port, any other the host as it was exported, which may be a URL.
    port = getattr(backend, "PORT", None)
    if port is not None:
        host = urlsplit(host if "//" in host else f"//{host}").hostname or host
    if action == "query":
        print("on" if backend.power_get(host, port, index) else "off")
    else:
        backend.power_set(host, port, index, action == "on")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except HarnessError as error:
        sys.exit(str(error))
