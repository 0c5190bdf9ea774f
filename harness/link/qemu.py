"""The virtual target: a machine of QEMU's, which is its own power switch and console.

Direct kernel boot, copy-on-write disk, SSH on a loopback port, QMP and the serial
console over socket pairs made before QEMU starts, so that no first line is missed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.inventory import Target
from harness.link import ramoops
from harness.link.console import Console
from harness.link.console_source import SocketSource
from harness.link.dial import Endpoint
from harness.link.gen3 import CMDLINE, CPU_FLAGS, TCG_THREADS, Gen3, refuse
from harness.link.kept import Kept
from harness.link.qmp import Qmp
from harness.link.virtual import Manifest

__all__ = ["Qemu"]

# Seconds QEMU itself may need to greet; it needs a tenth of one on an idle host.
_GREET_S = 30.0
# Seconds until the first console byte under working KVM; TCG takes about one.
_KVM_FIRST_BYTE_S = 10.0
_SETTLE_S = 0.2
_FORWARD = re.compile(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s")


class Qemu:
    """A virtual machine for one target.  Methods may be called from any thread, one at a time."""

    def __init__(
        self,
        target: Target,
        manifest: Manifest,
        run_dir: Path,
        sink: Callable[[bytes], object],
        *,
        kvm: bool | None = None,
    ) -> None:
        """Nothing starts yet.  `sink` gets the console's raw bytes, over all power cycles.

        `run_dir` holds the disk overlay, QEMU's stderr and the console's socket while
        the machine lives.  `kvm` None: use it where it truly works.
        """
        if target.vm is None:
            raise UsageError("is no virtual target", where=target.name, cure="use its power")
        self.target = target
        self.manifest = manifest
        self.run_dir = run_dir
        self.console = Console(sink, name=target.name)
        self.notes: list[str] = []
        """What a reader of the run should know: KVM that did not work, a lost disk."""
        self.events: list[dict[str, Any]] = []
        """QMP events of this power-on, oldest first (RESET, SHUTDOWN with its reason)."""
        self._vm = target.vm
        self._kvm = kvm_offered() if kvm is None else kvm
        if self._kvm:
            try:
                refuse(target, "kvm")
            except UsageError as error:
                if kvm:
                    raise
                self.notes.append(f"KVM is offered but not used: {error.what}")
                self._kvm = False
        self.evidence = run_dir
        """Where the log of a modelled chip goes."""
        self._kept: Kept | None = None
        self._model: Gen3 | None = None
        self._qmp: Qmp | None = None
        self._port = 0
        self._served = False

    # -- the whole life --------------------------------------------------------

    def start(self, deadline: Deadline) -> Endpoint:
        """Power on and wait until sshd answers; returns where.

        Raises LabError with the last console lines when it does not, or cannot start;
        what did start goes on then, until `stop`.
        """
        self.on(deadline)
        self.wait_ssh(deadline)
        return self.endpoint()

    def stop(self) -> None:
        """Power off and remove what only a running machine needs.  Idempotent."""
        self.off(Deadline(_GREET_S))
        self.console.close()
        for name in ("disk.qcow2", "console.sock"):
            (self.run_dir / name).unlink(missing_ok=True)

    def endpoint(self) -> Endpoint:
        """Where its sshd is; the same over power cycles.  Raises LabError before the first."""
        if not self._port:
            raise LabError("has no SSH port yet", where=self.target.name, cure="power it on")
        return Endpoint(
            target=self.target.name,
            host="127.0.0.1",
            port=self._port,
            user="root",
            key=Path(self.manifest.key),
            host_key=self.manifest.host_key,
        )

    def describe(self) -> str:
        """One line for people: what this machine is."""
        how = "KVM" if self._kvm else "TCG"
        return (
            f"QEMU ({how}), Linux {self.manifest.release}, {self._vm.card},"
            f" {self._vm.cpus} CPUs, {self._vm.memory_mib} MiB"
        )

    # -- power -----------------------------------------------------------------

    def on(self, deadline: Deadline) -> None:
        """Power on; no-op when it is on.  Raises LabError when QEMU does not start."""
        if self.alive():
            return
        self._clear()
        self._prepare()
        if self._kvm:
            seen = self.console.received
            try:
                self._launch(deadline, "kvm")
                if self.console.wait_received(seen, deadline.capped(_KVM_FIRST_BYTE_S)):
                    return
                why = f"no console output within {_KVM_FIRST_BYTE_S:g} s"
            except LabError as error:
                why = error.what
            self.notes.append(f"KVM is offered but does not work here ({why}): TCG used instead")
            self._kvm = False
            self.off(deadline)
            self._prepare()
        self._launch(deadline, "tcg")

    def off(self, deadline: Deadline) -> None:
        """Cut the power: the guest gets no chance to sync, its disk keeps what it wrote."""
        self._end(deadline)
        self._clear()

    def cycle(self, deadline: Deadline) -> None:
        """Off and on again: memory is lost, the disk is kept."""
        self.off(deadline)
        deadline.pause(_SETTLE_S)
        self.on(deadline)

    def query(self, deadline: Deadline) -> bool | None:
        """Whether it is on."""
        return self.alive()

    def nmi(self, deadline: Deadline) -> bool:
        """A non-maskable interrupt to every CPU.  Raises LabError when it is off."""
        self.qmp("inject-nmi", deadline)
        return True

    def send_break(self, deadline: Deadline) -> None:
        """A BREAK on its serial port, which the kernel takes for SysRq with the next key."""
        self.qmp("chardev-send-break", deadline, id="serial")

    # -- looking at it ---------------------------------------------------------

    def alive(self) -> bool:
        """Whether QEMU runs.  A guest that panicked or hangs is still alive."""
        return self._kept is not None and self._kept.alive()

    @property
    def pid(self) -> int:
        """QEMU's process id; 0 when it is off."""
        return self._kept.pid if self._kept is not None and self._kept.alive() else 0

    @property
    def accel(self) -> str:
        """kvm or tcg."""
        return "kvm" if self._kvm else "tcg"

    @property
    def console_socket(self) -> Path:
        """Where other processes watch and type (harness.link.console.attach)."""
        return self.run_dir / "console.sock"

    def qmp(self, command: str, deadline: Deadline, **arguments: Any) -> Any:
        """Run a QMP command.  Raises LabError when it is off or refuses."""
        if self._qmp is None:
            raise LabError(f"QMP {command}: it is off", where=self.target.name, cure="power it on")
        return self._qmp.execute(command, deadline, arguments)

    def exit_reason(self) -> str:
        """Why QEMU ended, in words; "" while it runs or before it ever ran."""
        if self._kept is None or self._kept.alive():
            return ""
        asked = [e["data"].get("reason", "") for e in self.events if e["event"] == "SHUTDOWN"]
        return f"QEMU ended: {self._kept.how()}" + (f" ({asked[-1]})" if asked else "")

    def trouble(self) -> str:
        """What of the lab's own broke under the machine, in words; "" where all is well."""
        if self._model is None:
            return ""
        if self._kept is not None and not self._kept.alive():
            self._model.settle()
        return self._model.trouble()

    @property
    def model(self) -> Gen3:
        """The chip's model.  Raises LabError where the GPU is QEMU's own, or it is off."""
        if self._model is None:
            raise LabError("has no modelled chip", where=self.target.name, cure="power it on")
        return self._model

    def remarks(self) -> list[str]:
        """What else of the lab's own a judge should know, since this was last asked."""
        return [] if self._model is None else self._model.remarks()

    def wait_ssh(self, deadline: Deadline) -> None:
        """Until sshd says its banner.  Raises LabError with the last console lines."""
        while not self._banner(deadline):
            if not self.alive():
                raise self._failed(
                    self.trouble() or self.exit_reason(), "see the console lines above"
                )
            if not deadline.pause(0.1):
                raise self._failed(
                    f"sshd did not answer within {deadline.seconds:g} s",
                    "is this host overloaded? else see console.log for a panic",
                )

    # -- below -----------------------------------------------------------------

    def _banner(self, deadline: Deadline) -> bool:
        # QEMU's user network accepts before the guest listens, so only its words count.
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1.0) as sock:
                sock.settimeout(max(0.1, deadline.capped(5.0).left()))
                return sock.recv(64).startswith(b"SSH-")
        except OSError:
            return False

    def _prepare(self) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        disk = self.run_dir / "disk.qcow2"
        if not disk.exists():
            base = ["-F", "raw", "-b", self.manifest.root]
            done = subprocess.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", *base, str(disk)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
            )
            if done.returncode != 0:
                said = done.stderr.decode(errors="replace").strip()
                raise self._failed(f"cannot make its disk: {said}", "is the disk full?")
        if not self._served:
            self.console.serve(self.console_socket)
            self._served = True

    def _launch(self, deadline: Deadline, accel: str) -> None:
        monitor, monitor_fd = socket.socketpair()
        serial, serial_fd = socket.socketpair()
        self.console.attach(SocketSource(serial))
        self.events.clear()
        with contextlib.ExitStack() as theirs:
            ends = [theirs.enter_context(sock) for sock in (monitor_fd, serial_fd)]
            chip: list[str] = []
            if self._vm.chip is not None:
                self._model = Gen3(self._vm.chip, self.run_dir, self.evidence, self._model_died)
                for_chip = [theirs.enter_context(sock) for sock in self._model.start(accel)]
                chip = Gen3.arguments(self._vm.memory_mib, *(sock.fileno() for sock in for_chip))
                ends += for_chip
            fds = [sock.fileno() for sock in ends]
            argv = [*self._argv(accel, *fds[:2]), *chip]
            self._kept = Kept(argv, fds=fds, stderr=self.run_dir / "qemu.stderr")
        if self.trouble():  # it died before there was a QEMU to end
            self._kept.terminate()
        try:
            self._qmp = Qmp(
                monitor,
                deadline.capped(_GREET_S),
                name=self.target.name,
                on_event=self.events.append,
            )
            usernet = self._qmp.human("info usernet", deadline.capped(_GREET_S))
        except LabError as error:
            self._end(Deadline(1))
            said = (self.run_dir / "qemu.stderr").read_text(errors="replace").strip()
            self._clear()
            raise self._failed(
                f"QEMU did not start: {self.trouble() or said[-500:] or error.what}",
                "see vm in targets.toml; `./tools/lab setup` checks the installation",
            ) from error
        forward = _FORWARD.search(usernet)
        if forward is None:
            raise self._failed(f"no forwarded SSH port in: {usernet!r}", "report this QEMU version")
        self._port = int(forward[1])

    def _argv(self, accel: str, monitor_fd: int, serial_fd: int) -> list[str]:
        vm, made = self._vm, self.manifest
        cmdline = (
            "console=ttyS0,115200 ignore_loglevel panic=10 root=/dev/vda rw net.ifnames=0"
            f" ip=10.0.2.15::10.0.2.2:255.255.255.0:{self.target.name}:eth0:off"
            f" {ramoops.words(vm.memory_mib)}"
        )
        disk = self.run_dir / "disk.qcow2"
        threads, flags = "multi", ""
        if vm.chip is not None:
            threads, flags = TCG_THREADS, CPU_FLAGS
            cmdline += f" {CMDLINE}"
        # MiB of translated code.  After a reset each store to a page that holds some of the boot
        # before is slow, until all is thrown away because the buffer is full: with a large one a
        # second boot takes twice as long as the first; a small one costs each process's start.
        tcg = f"tcg,thread={threads},tb-size=112"
        return [
            "qemu-system-x86_64",
            *("-name", f"{self.target.name},process=tdrlab-{self.target.name}"[:80]),
            *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"),
            # q35: on "pc" each virtio device costs 2 s of ACPI interrupt routing under TCG.
            *("-machine", "q35", "-accel", "kvm" if accel == "kvm" else tcg),
            *("-cpu", ("host" if accel == "kvm" else "max") + flags),
            *("-smp", str(vm.cpus), "-m", str(vm.memory_mib)),
            *("-kernel", made.kernel, "-append", f"{cmdline} {vm.cmdline}".strip()),
            *(("-device", f"{vm.gpu},addr=02.0") if vm.gpu else ()),
            # No flushes: what a power cut would lose is lost on our command, by QMP quit,
            # which writes everything out; and after a SIGKILL the overlay is thrown away.
            *("-drive", f"if=none,id=root,format=qcow2,cache=unsafe,file={_escaped(disk)}"),
            *("-device", "virtio-blk-pci,drive=root,addr=04.0"),
            *("-drive", f"if=none,id=mod,format=raw,readonly=on,file={_escaped(made.modules)}"),
            *("-device", "virtio-blk-pci,drive=mod,addr=05.0"),
            *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self._port}-:22"),
            *("-device", "virtio-net-pci,netdev=net,addr=06.0,romfile="),
            *("-object", "rng-random,id=rng,filename=/dev/urandom"),
            *("-device", "virtio-rng-pci,rng=rng,addr=07.0"),
            # A hardware watchdog as a box may have, which resets the machine where it is not fed.
            *("-device", "i6300esb,addr=08.0", "-action", "watchdog=reset"),
            *("-chardev", f"socket,id=serial,fd={serial_fd}", "-serial", "chardev:serial"),
            *("-chardev", f"socket,id=monitor,fd={monitor_fd}"),
            *("-mon", "chardev=monitor,mode=control"),
        ]

    def _end(self, deadline: Deadline) -> None:
        """QEMU out, politely if it can be: quit, then SIGTERM, then SIGKILL by the keeper."""
        if self._kept is None:
            return
        if self._qmp is not None and self._kept.alive():
            with contextlib.suppress(LabError):
                self._qmp.execute("quit", deadline.capped(5.0))
        if not self._kept.wait(3.0):
            self._kept.end()
        if self._kept.status == 128 + signal.SIGKILL:
            (self.run_dir / "disk.qcow2").unlink(missing_ok=True)
            self.notes.append("QEMU had to be killed: its disk starts anew")
        if self._model is not None:
            self._model.stop()

    def _model_died(self) -> None:
        """In the model's own thread: without its GPU the guest only makes false evidence."""
        if self._kept is not None:
            self._kept.terminate()

    def _clear(self) -> None:
        """Forget a QEMU that ended; its last console bytes are read first."""
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None
        self.console.detach()
        if self._kept is not None:
            self._kept.forget()

    def _failed(self, what: str, cure: str) -> LabError:
        tail = self.console.tail(12)
        lines = f"\n  last console lines:\n    {tail.replace(chr(10), chr(10) + '    ')}"
        return LabError(what + (lines if tail else ""), where=self.target.name, cure=cure)


def kvm_offered(cpuinfo: Path = Path("/proc/cpuinfo"), device: Path = Path("/dev/kvm")) -> bool:
    """Whether KVM is worth a try: /dev/kvm opens and the CPU says it can.

    /dev/kvm alone proves nothing: it can open and the guest never print.
    """
    try:
        flags = set(cpuinfo.read_text().split())
    except OSError:
        return False
    return bool(flags & {"vmx", "svm"}) and os.access(device, os.R_OK | os.W_OK)


def _escaped(path: str | Path) -> str:
    """A file name as QEMU's option parser wants it: commas doubled."""
    return str(path).replace(",", ",,")
