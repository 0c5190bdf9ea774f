"""bench gen3: accesses of a guest's that the modelled chip serves, beside an empty echo.

The model's own process is asked over its socket as QEMU asks it, without QEMU;
the echo is the least that any device in another Python process costs.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness.link.gen3 import Gen3
from tools.bench.result import Result

__all__ = ["run"]

_ACCESSES = 20_000
_ROUNDS = 3
_MMIO, _PTES, _APERTURE = 0xF000_0000, 0xF010_0000, 0xE000_0000
_BARS = {0x10: _MMIO, 0x18: _APERTURE, 0x1C: _PTES}
# The proxy protocol's numbers: tools/gen3/proxy.py.
_CFG_WRITE, _BAR_WRITE, _BAR_READ = 2, 4, 5
_ECHO = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
while sock.recv(4096):
    sock.send(bytes(24))
"""


def run() -> list[Result]:
    """Raises LabError where the model does not start."""
    # Computed, stored, and the GTT: what a probe does most of.
    kinds = {
        "register reads": (_BAR_READ, _MMIO + 0x70000),
        "register writes": (_BAR_WRITE, _MMIO + 0x6101C),
        "page table writes": (_BAR_WRITE, _PTES + 0x40),
    }
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        model = Gen3("g33", where, where, lambda: None)
        (pci,) = model.start("kvm")  # no qtest: nobody is there to take the interrupt
        try:
            with pci:
                _map(pci)
                measured = {
                    kind: _rate(pci, _access(command, address))
                    for kind, (command, address) in kinds.items()
                }
        finally:
            model.stop()
    echo = _echo()
    return [
        Result.of(f"gen3: {kind}", rate, "1/s", {"empty echo": echo})
        for kind, rate in measured.items()
    ]


def _map(pci: socket.socket) -> None:
    """BARs and decoding, as firmware sets them."""
    for offset, value in {**_BARS, 0x04: 2}.items():
        pci.sendall(struct.pack("<i4xQIIi", _CFG_WRITE, 12, offset, value, 4 if offset > 4 else 2))
        pci.recv(4096)


def _access(command: int, address: int) -> bytes:
    return struct.pack("<i4xQQQI?3x", command, 24, address, 1, 4, True)


def _rate(sock: socket.socket, request: bytes) -> float:
    """The best of some rounds: what else this host does only ever takes away."""
    return max(_round(sock.send, sock.recv, request) for _ in range(_ROUNDS))


def _round(send: Callable[[bytes], int], receive: Callable[[int], bytes], request: bytes) -> float:
    began = time.perf_counter()
    for _ in range(_ACCESSES):
        send(request)
        receive(4096)
    return _ACCESSES / (time.perf_counter() - began)


def _echo() -> float:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            fd = os.dup(theirs.fileno())
            child = subprocess.Popen([sys.executable, "-I", "-c", _ECHO, str(fd)], pass_fds=[fd])
            os.close(fd)
        rate = _rate(ours, bytes(40))
    child.wait()
    return rate
