"""A modelled gen3 chip beside QEMU: its process, the sockets between the two, its control.

The model lives and dies with one power-on of the machine; that it died by itself is
the lab's trouble and never the kernel's.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import LabError, UsageError
from harness.inventory import Target
from harness.link.kept import Kept
from harness.link.sockname import short

__all__ = ["CMDLINE", "CONTROL_SOCKET", "CPU_FLAGS", "TCG_THREADS", "Gen3", "ask", "refuse"]

# fbcon would draw through the aperture, where every store is a round trip to the model: 15 s for
# one 1024x768 screen.  So is every entry of the page table, which i915 writes without a pause when
# it is probed and when the machine wakes from its sleep: 3 s on an idle host, 26 s on one loaded
# sevenfold.  That is no lockup (twice watchdog_thresh), nor a stall of RCU.
CMDLINE = "drm_kms_helper.fbdev_emulation=0 watchdog_thresh=30 rcupdate.rcu_cpu_stall_timeout=60"

# Accesses of a second CPU at the same time are lost (see `refuse`).
TCG_THREADS = "single"

# With fast string operations the guest copies to the chip byte by byte.  Under a hypervisor i915
# does not stream from the aperture: zlib then reads it byte by byte (i915_memcpy.c,
# i915_gpu_error.c, compress_page), and one error state takes as long as two heartbeats.
CPU_FLAGS = ",-erms,-fsrm,-hypervisor"

CONTROL_SOCKET = "gen3.sock"
"""The name of the control socket, beside the console's."""

_MODEL = Path(__file__).parents[2] / "tools/gen3/__main__.py"
_LOG = "gen3.log"
# Bytes of its log in which its last line is looked for.
_TAIL = 4096
# Seconds for the model to notice that QEMU went, and for QEMU to be told of the opposite.
_GRACE_S = 3.0
# Seconds for an answer, which comes between two accesses of the guest's.
_ANSWER_S = 20.0


def refuse(target: Target, accel: str) -> None:
    """Raise UsageError where QEMU would lose the guest's accesses to a modelled chip.

    While the proxy device waits for the model it releases QEMU's big lock, and an access
    by a second processor is then taken for a device that calls itself: refused, and lost
    ("Blocked re-entrant IO", QEMU since 7.2.1).  Processors that run in one thread, as
    single-threaded TCG has them, never meet.
    """
    assert target.vm is not None
    if target.vm.chip is not None and accel == "kvm" and target.vm.cpus > 1:
        raise UsageError(
            f"{target.vm.cpus} CPUs under KVM would lose accesses to a modelled chip:"
            " QEMU refuses the second CPU's while it waits for the model",
            where=target.name,
            cure="cpus = 1, or let it run without KVM",
        )


def ask(control: Path, op: str, **args: Any) -> dict[str, Any]:
    """One operation of tools.gen3.control's, on the model that listens at `control`.

    Raises LabError when it is refused, or nobody answers.
    """
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_ANSWER_S)
            with short(control) as name:
                sock.connect(name)
            sock.sendall(json.dumps({"op": op, **args}).encode() + b"\n")
            line = sock.makefile("rb").readline()
            if not line.endswith(b"\n"):  # killed in the middle of a word, perhaps
                raise ConnectionError("it closed the connection")
    except OSError as error:
        raise LabError(
            f"the chip's model does not answer {op}: {error}",
            where=str(control),
            cure="is the machine on? its log is gen3.log in the run's directory",
        ) from error
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise LabError(
            f"the chip's model refuses {op}: {answer['error']}",
            where=str(control),
            cure="see tools/gen3/README.md for what it knows",
        )
    return answer


class Gen3:
    """One model for one power-on."""

    def __init__(
        self, chip: str, run_dir: Path, evidence: Path, on_death: Callable[[], None]
    ) -> None:
        """`on_death` is called, in a thread of its own, when it ends and nobody asked for it.

        `run_dir` is where its control socket lies, `evidence` where its log goes.
        """
        self._chip = chip
        self._run_dir = run_dir
        self._log = evidence / _LOG
        self._on_death = on_death
        self._kept: Kept | None = None
        self._stopping = False
        self._stalls = 0

    def start(self, accel: str) -> list[socket.socket]:
        """Start the model; returns QEMU's ends of the sockets, for `arguments`.

        They are the caller's, to close when QEMU has them.  Raises LabError.
        """
        # The one place that knows by what QEMU and the model talk.  Where QEMU has
        # vfio-user-pci (10.1), its socket is made here and its -device said in `arguments`.
        pci, pci_end = socket.socketpair()
        pairs = [(pci, pci_end, "--pci")]
        if accel == "tcg":
            pairs.append((*socket.socketpair(), "--qtest"))
        argv = [sys.executable, "-I", str(_MODEL), "--chip", self._chip]
        argv += ["--control", str(self.control_socket)]
        for ours, _, option in pairs:
            argv += [option, str(ours.fileno())]
        try:
            self._kept = Kept(argv, fds=[ours.fileno() for ours, _, _ in pairs], stderr=self._log)
        except OSError as error:
            for _, theirs, _ in pairs:
                theirs.close()
            raise LabError(
                f"cannot start the model of the {self._chip}: {error}",
                where=str(self._log),
                cure="is the directory there, and the disk not full?",
            ) from error
        finally:
            for ours, _, _ in pairs:
                ours.close()
        threading.Thread(target=self._watch, name="gen3", daemon=True).start()
        return [theirs for _, theirs, _ in pairs]

    @staticmethod
    def arguments(memory_mib: int, pci: int, qtest: int | None = None) -> list[str]:
        """What QEMU needs to know; the numbers are of the fds from `start`, in its order."""
        words = [
            # Its RAM by fd, so that the model can map it.
            *("-object", f"memory-backend-memfd,id=ram,size={memory_mib}M,share=on"),
            *("-machine", "memory-backend=ram"),
            *("-device", f"x-pci-proxy-dev,addr=02.0,fd={pci}"),
        ]
        if qtest is not None:
            words += [
                *("-chardev", f"socket,id=qtest,fd={qtest}"),
                *("-object", "qtest,id=qtest,chardev=qtest,log=/dev/null"),
            ]
        return words

    @property
    def control_socket(self) -> Path:
        """Where tests and people control the chip (tools.gen3.control)."""
        return self._run_dir / CONTROL_SOCKET

    @property
    def pid(self) -> int:
        """Of the model; 0 when it has ended."""
        return self._kept.pid if self._kept is not None and self._kept.alive() else 0

    def alive(self) -> bool:
        """Whether the model runs."""
        return self._kept is not None and self._kept.alive()

    def control(self, op: str, **args: Any) -> dict[str, Any]:
        """One operation of tools.gen3.control.  Raises LabError when it is refused or gone."""
        try:
            return ask(self.control_socket, op, **args)
        except LabError as error:
            if not (trouble := self.trouble()):
                raise
            raise LabError(
                f"{error.what}: {trouble}", where=error.where, cure=f"see {self._log}"
            ) from error

    def trouble(self) -> str:
        """How it broke, with its last words; "" while it has not.

        A model ends with status 0 when QEMU has gone, which is no trouble of its.
        """
        if self._kept is None or self._stopping or not self._kept.status:
            return ""
        said = self._last_lines()
        last = f": {said[-1].strip()}" if said and self._kept.status < 128 else ""
        return f"the model of the {self._chip} died ({self._kept.how()}{last}); see {_LOG}"

    def remarks(self) -> list[str]:
        """What else of it a judge of the kernel should know, since this was last asked.

        Nothing where it does not answer; why, `trouble` says.
        """
        try:
            loop = self.control("state")["state"]["loop"]
        except LabError:
            return []
        new, self._stalls = loop["stalls"] - self._stalls, loop["stalls"]
        if not new:
            return []
        longest = loop["longest_ms"] / 1e3
        return [
            f"the modelled GPU stood still in this test, {new} time(s), {longest:.1f} s at most:"
            " a flip or a lockup that came late may be the lab's"
        ]

    def _last_lines(self) -> list[str]:
        """Of its log; none where that is gone with its directory."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
                return log.read(_TAIL).decode(errors="replace").strip().splitlines()
        except OSError:
            return []

    def settle(self) -> None:
        """QEMU has ended, so the model does or did: wait until it can be told which was first."""
        if self._kept is not None:
            self._kept.wait(_GRACE_S)

    def stop(self) -> None:
        """End it; QEMU has gone before.  What it died of by itself stays known."""
        if self._kept is None:
            return
        if not self._kept.wait(_GRACE_S):
            self._stopping = True
            self._kept.end()
        self._kept.forget()
        with contextlib.suppress(OSError):  # a leaving must not fail for a leftover
            self.control_socket.unlink()

    def _watch(self) -> None:
        assert self._kept is not None
        self._kept.wait()
        if self.trouble():
            self._on_death()
