"""A hardware watchdog, fed as long as this agent lives and is wanted.

Disarmed when the controller says goodbye.  When this agent dies with the machine half dead,
nobody feeds it, and it resets the machine; so it does when the controller is gone and has not
come back after all the time it gives a link.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import select
import signal
import struct
import threading
import time
from typing import Any

from .commands import Commands
from .errors import target

__all__ = ["Watchdog"]

# include/uapi/linux/watchdog.h: struct watchdog_info is two u32 and 32 bytes.
_INFO = struct.Struct("=II32s")
_GETSUPPORT = 0x80285700  # _IOR('W', 0, struct watchdog_info)
_SETTIMEOUT = 0xC0045706  # _IOWR('W', 6, int)
_CAN_SETTIMEOUT, _CAN_MAGICCLOSE = 0x0080, 0x0100
_CLASS = "/sys/class/watchdog"
_MODPROBE_SECONDS = 30.0
# What another agent, told to end, may take to put everything back.
_SUCCESSION_SECONDS = 10.0


class Watchdog:
    """The session's watchdog."""

    def __init__(self) -> None:
        self._fd = -1
        self._patience = 0.0
        self._until = math.inf
        self._enough = threading.Event()
        self._feeder: threading.Thread | None = None

    def start(
        self,
        device: str,
        seconds: int,
        module: str | None,
        commands: Commands,
        patience: float = 0.0,
    ) -> dict[str, Any]:
        """Arm `device` to fire `seconds` after its last feeding: {"identity", "seconds"}, as
        the hardware can.  `patience`: for how long a controller that fell silent may be back.

        Raises AgentError (target) where there is none, somebody else feeds it, or it could
        not be disarmed again.
        """
        if module and not os.path.exists(device):
            commands.run(["modprobe", module], "", _MODPROBE_SECONDS)
            commands.run(["udevadm", "settle"], "", _MODPROBE_SECONDS)
        refused = _forever()
        if refused:
            raise target(
                f"the watchdog {refused} can never be disarmed (nowayout)",
                device,
                "boot without nowayout, or drop watchdog from targets.toml",
            )
        try:
            # Opening it arms it (Documentation/watchdog/watchdog-api.rst).
            fd = _opened(device)
        except OSError as error:
            raise target(
                f"cannot open the watchdog: {error.strerror}",
                device,
                "somebody else feeds it (systemd's RuntimeWatchdogSec?): leave it to one"
                if error.errno == errno.EBUSY
                else "load its driver: watchdog.module in targets.toml",
                error.errno,
            ) from error
        try:
            raw = fcntl.ioctl(fd, _GETSUPPORT, bytes(_INFO.size))
            options, _, name = _INFO.unpack(raw)
            told = struct.pack("=i", seconds)
            if options & _CAN_SETTIMEOUT:
                told = fcntl.ioctl(fd, _SETTIMEOUT, told)
            if not options & _CAN_MAGICCLOSE:
                raise OSError(0, "it cannot be disarmed by its holder")
        except OSError as error:
            os.write(fd, b"V")
            os.close(fd)
            raise target(
                f"this watchdog cannot be used: {error.strerror}", device, "use another one"
            ) from error
        self._fd, self._patience = fd, patience
        (actual,) = struct.unpack("=i", told)
        self._feeder = threading.Thread(
            target=self._feed, args=(max(1.0, actual / 4),), name="watchdog", daemon=True
        )
        self._feeder.start()
        return {"identity": name.rstrip(b"\0").decode("ascii", "replace"), "seconds": actual}

    def starve(self, *, now: bool) -> None:
        """Feed it no more, `now` or once `patience` has passed, and leave it armed."""
        self._until = time.monotonic() + (0.0 if now else self._patience)

    def outlast(self, wake: int) -> None:
        """Wait while it is still fed, or until `wake` can be read."""
        if self._feeder is not None:
            select.select([wake], [], [], max(0.0, self._until - time.monotonic()))

    def stop(self) -> None:
        """Disarm it.  Idempotent."""
        self._enough.set()
        if self._feeder is not None:
            self._feeder.join()
            self._feeder = None
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.write(fd, b"V")  # the magic close
            os.close(fd)

    def _feed(self, pause: float) -> None:
        while not self._enough.wait(pause) and time.monotonic() < self._until:
            with contextlib.suppress(OSError):
                os.write(self._fd, b"\0")


def _opened(device: str) -> int:
    """A descriptor of it.  An agent of a controller that was killed feeds it for a while yet: it
    would let go of it armed, and the machine be reset under us."""
    end = time.monotonic() + _SUCCESSION_SECONDS
    while True:
        try:
            return os.open(device, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            holders = _agents_at(device) if error.errno == errno.EBUSY else []
            if not holders or time.monotonic() > end:
                raise
        for pid in holders:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)


def _agents_at(device: str) -> list[int]:
    """Other agents that have it open."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/cmdline", "rb") as told:
                if b"lab-agent" not in told.read():
                    continue
            links = [f"/proc/{name}/fd/{fd}" for fd in os.listdir(f"/proc/{name}/fd")]
            if any(os.path.realpath(link) == os.path.realpath(device) for link in links):
                found.append(int(name))
    return found


def _forever() -> str:
    """The name of a watchdog that says of itself that it cannot be disarmed; "" for none.

    Only where the kernel tells (CONFIG_WATCHDOG_SYSFS).
    """
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(_CLASS)):
            with contextlib.suppress(OSError), open(f"{_CLASS}/{name}/nowayout") as told:
                if told.read().strip() == "1":
                    return name
    return ""
