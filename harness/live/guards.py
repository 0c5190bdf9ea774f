"""What stands by while a target may die: last words by UDP, a watchdog, the NMI's panic, kdump.

Armed at each boot, each alone: one that cannot be had costs no test, and is said.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from harness.deadline import Deadline
from harness.errors import HarnessError
from harness.inventory import Target
from harness.link.dial import Endpoint
from harness.link.netconsole import Netconsole
from harness.live import kdump
from harness.live.attachment import Attachment

__all__ = ["Guards"]

# With it an NMI that nobody expects panics, with a stack (Documentation/admin-guide/sysctl/
# kernel.rst); else the kernel says "Dazed and confused" and goes on hanging.
_NMI_PANIC = "/proc/sys/kernel/unknown_nmi_panic"


class Guards:
    """A target's, over all its boots."""

    def __init__(self, target: Target, sink: Callable[[bytes], object]) -> None:
        """`sink` gets netconsole's datagrams."""
        self._target = target
        self._sink = sink
        self._receiver: Netconsole | None = None
        self._told: list[str] = []
        self.armed: dict[str, str] = {}
        """What stands by in this boot, and how."""
        self.absent: dict[str, tuple[str, str]] = {}
        """What of the configured does not, why, and the cure."""

    def open(self, endpoint: Endpoint) -> None:
        """Listen, where the target shall send.  Never raises: see `remarks`."""
        spec = self._target.netconsole
        if spec is None:
            return
        try:
            found = socket.getaddrinfo(endpoint.host, None, socket.AF_INET, socket.SOCK_DGRAM)
        except OSError as error:
            self._lost("netconsole", f"{endpoint.host} has no IPv4 address: {error}", "")
            return
        receiver = Netconsole(
            self._sink,
            name=self._target.name,
            port=spec.port,
            rate=spec.rate,
            sources=[str(address[0]) for *_, address in found],
        )
        try:
            receiver.start()
        except HarnessError as error:
            self._lost("netconsole", error.what, error.cure)
        else:
            self._receiver = receiver

    def arm(self, at: Attachment, *, nmi: bool) -> None:
        """Have all of them stand by in the boot that `at` is attached to; `nmi`: this target's
        power can raise one.  Never raises: see `remarks`."""
        self.armed = {}
        steps = [
            ("watchdog", self._watchdog),
            ("netconsole", self._netconsole),
            ("kdump", self._kdump),
        ]
        if nmi and self._target.policy.nmi_panic:
            steps.append(("NMI", self._nmi))
        for name, step in steps:
            try:
                if how := step(at):
                    self.armed[name] = how
            except HarnessError as error:
                self._lost(name, error.what, error.cure)
            else:
                if name in self.armed:
                    self.absent.pop(name, None)

    def remarks(self) -> list[str]:
        """What is not as configured, or was lost, since last asked."""
        told, self._told = self._told, []
        return [*told, *(self._receiver.remarks() if self._receiver else [])]

    def close(self) -> None:
        """Listen no more.  Idempotent."""
        if self._receiver is not None:
            self._receiver.stop()

    def _lost(self, name: str, why: str, cure: str) -> None:
        self.absent[name] = (why, cure)
        self._told.append(f"{name} does not stand by: {why}")

    def _deadline(self) -> Deadline:
        return Deadline(self._target.limits.command_s)

    def _netconsole(self, at: Attachment) -> str:
        spec, receiver = self._target.netconsole, self._receiver
        if spec is None or receiver is None:
            return ""
        host = spec.host or at.ssh.seen_from(self._deadline())
        set_up = at.agent.call("netconsole.start", self._deadline(), host=host, port=receiver.port)
        receiver.admit(set_up["local"])
        return f"{set_up['interface']} {set_up['local']} to {host}:{receiver.port}"

    def _watchdog(self, at: Attachment) -> str:
        spec = self._target.watchdog
        if spec is None:
            return ""
        limits = self._target.limits
        found = at.agent.call(
            "watchdog.start",
            self._deadline(),
            device=spec.device,
            seconds=spec.timeout_s,
            # What a link that was cut is given to come back in.
            patience=limits.connect_s + limits.stall_s,
            **({"module": spec.module} if spec.module else {}),
        )
        return f"{found['identity']}, {found['seconds']} s"

    def _kdump(self, at: Attachment) -> str:
        """The machine's own set-up: there is nothing to be armed, and nothing is lost without."""
        there = kdump.loaded(at.agent, self._deadline())
        return f"a crash kernel, {self._target.kdump.directory}" if there else ""

    def _nmi(self, at: Attachment) -> str:
        at.agent.call("knob", self._deadline(), path=_NMI_PANIC, value="1", standing=True)
        return "unknown_nmi_panic"
