"""The model as a process: a chip, QEMU's socket, the interrupt line, the control socket.

Ends when QEMU does, with status 0; any fault of the model's own ends it with a
traceback and status 1.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from pathlib import Path

if __package__ in (None, ""):  # run by its file name, so that -I can keep all else out
    sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[2]))

from tools.gen3.chip import VARIANTS, Chip
from tools.gen3.control import Control
from tools.gen3.line import IrqfdLine, QtestLine
from tools.gen3.loop import Loop
from tools.gen3.memory import Memory
from tools.gen3.proxy import Proxy
from tools.gen3.stalls import Stalls

__all__ = ["main"]


def main(arguments: list[str]) -> None:
    """Serve until QEMU goes.  Whatever else happens is a fault of the model's, and is raised."""
    parser = argparse.ArgumentParser(prog="gen3", description=__doc__)
    parser.add_argument("--chip", choices=sorted(VARIANTS), required=True)
    parser.add_argument("--pci", type=int, required=True, help="fd of x-pci-proxy-dev's peer")
    parser.add_argument("--qtest", type=int, help="fd of a qtest socket; none: KVM's eventfds")
    parser.add_argument("--control", type=Path, required=True, help="where to listen")
    given = parser.parse_args(arguments)
    memory, clock = Memory(), time.monotonic_ns
    line = IrqfdLine() if given.qtest is None else QtestLine(given.qtest)
    proxy = Proxy(
        socket.socket(fileno=given.pci),
        memory,
        line,
        lambda: Chip(VARIANTS[given.chip], memory, line.set, clock),
    )
    stalls = Stalls(clock)
    control = Control(given.control, lambda: proxy.device, stalls)
    try:
        Loop(proxy, line, control.sources, lambda: proxy.device, clock, stalls).run()
    except EOFError as error:
        print(f"gen3: {error}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
