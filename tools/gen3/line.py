"""The chip's interrupt line, level triggered, into the guest's I/O APIC.

Under TCG through QEMU's qtest socket; under KVM through the two eventfds that
QEMU's proxy device hands out.
"""

# Under TCG the proxy's eventfds reach nobody: QEMU connects them by irqfd, which is
# KVM's.  qtest's set_irq_in reaches the pin itself (QEMU softmmu/qtest.c).

from __future__ import annotations

import os
import select
import socket
import sys
from typing import Protocol

__all__ = ["IrqfdLine", "Line", "QtestLine"]

# q35: INTA of slot 2 is PIRQ G, which is pin 22 of the I/O APIC (QEMU hw/isa/lpc_ich9.c:
# slots without a line of their own take (slot + pin) % 4 of PIRQ E-H; A-H are pins 16-23).
_IOAPIC = "/machine/q35/ioapic"
_PIN = 22
# Longest wait for qtest's word.  It comes within a millisecond; where QEMU's main loop
# itself waits for us (reset, quit) it cannot, and a spurious interrupt is the lesser evil.
_PATIENCE_S = 0.5


class Line(Protocol):
    """What the transport wants of an interrupt line."""

    patient: bool
    """Whether `set(False)` may wait for QEMU: true only while a vCPU waits for us."""

    def set(self, level: bool) -> None:
        """Assert or release it; the same level again costs nothing."""

    def attach(self, intr: int, resample: int) -> None:
        """QEMU's eventfds, which are the line's to close."""

    def fileno(self) -> int:
        """What to poll for input; -1 for nothing."""

    def ready(self) -> None:
        """That fd is readable.  Raises EOFError when QEMU is gone."""


class QtestLine:
    """A pin of the I/O APIC, set over qtest."""

    def __init__(self, fd: int, path: str = _IOAPIC, gsi: int = _PIN) -> None:
        """`fd` is a connected socket, ours from now on."""
        self.patient = False
        self.level = False
        self._sock = socket.socket(fileno=fd)
        self._words = [f"set_irq_in {path} unnamed-gpio-in {gsi} {on}\n".encode() for on in (0, 1)]
        self._unanswered = 0
        self._partial = b""

    def set(self, level: bool) -> None:
        """As promised by Line.  Raises EOFError when QEMU is gone, ValueError when it refuses."""
        if level == self.level:
            return
        self.level = level
        try:
            self._sock.sendall(self._words[level])
        except ConnectionError as error:
            raise EOFError("QEMU closed its qtest socket") from error
        self._unanswered += 1
        # Raised late does no harm.  Lowered late does: the guest would find the line
        # still up after its acknowledgement, and nothing to do.
        if not level and self.patient:
            self._settle()

    def attach(self, intr: int, resample: int) -> None:
        os.close(intr)
        os.close(resample)

    def fileno(self) -> int:
        return self._sock.fileno()

    def ready(self) -> None:
        try:
            data = self._sock.recv(4096)
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError("QEMU closed its qtest socket")
        *answers, self._partial = (self._partial + data).split(b"\n")
        for answer in answers:
            if answer != b"OK":
                raise ValueError(f"qtest refused to set the interrupt line: {answer!r}")
            self._unanswered -= 1

    def _settle(self) -> None:
        """Until QEMU has done all we said, but not for ever."""
        while self._unanswered:
            if not select.select([self._sock], [], [], _PATIENCE_S)[0]:
                print("gen3: qtest does not answer, going on without", file=sys.stderr, flush=True)
                return
            self.ready()


class IrqfdLine:
    """KVM's: a resample irqfd for the INTx line.

    `intr` asserts; KVM releases the pin at the guest's EOI and signals `resample`,
    upon which a line that is still up is asserted again.  Not tried: the machines
    this was written on have no KVM.
    """

    def __init__(self, intr: int = -1, resample: int = -1) -> None:
        self.patient = False
        self.level = False
        self._intr = intr
        self._resample = resample

    def set(self, level: bool) -> None:
        if level and not self.level:
            self._assert()
        self.level = level

    def attach(self, intr: int, resample: int) -> None:
        for old in (self._intr, self._resample):
            if old >= 0:
                os.close(old)
        self._intr, self._resample = intr, resample
        if self.level:
            self._assert()

    def fileno(self) -> int:
        return self._resample

    def ready(self) -> None:
        os.eventfd_read(self._resample)
        if self.level:
            self._assert()

    def _assert(self) -> None:
        if self._intr >= 0:
            os.eventfd_write(self._intr, 1)
