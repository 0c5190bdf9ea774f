"""Suspend to idle: a target falls asleep and is woken by its own clock, or by a key.

Documentation/admin-guide/pm/sleep-states.rst; rtcwake(8) sets the alarm and writes the state.
A clock wakes from it by an event of ACPI's (drivers/rtc/rtc-cmos.c, rtc_wake_on()), which QEMU's
raises in deeper states alone: a key on the serial console does where there is one.
"""

from __future__ import annotations

import logging
import time
from base64 import b64decode
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from harness.deadline import Deadline
from harness.errors import HarnessError, TargetError
from harness.link.agent import Agent

__all__ = ["Sleep"]

log = logging.getLogger(__name__)

_STATE = "/sys/power/state"
_ALARM = "/sys/class/rtc/rtc0/wakealarm"
_CONSOLES = "/sys/class/tty/console/active"
# Without a heartbeat, of which there is one each second, for so long a target is taken to be
# asleep, and a key is pressed; and again as often, in seconds.
_SILENT_S = 4.0
# A key that comes too early ends the suspend with EBUSY: then it may take longer to fall asleep.
_TRIES = 3


class Sleep:
    """What a target can do of it."""

    def __init__(
        self, agent: Agent, limit_s: float, seconds: float, press: Callable[[], object]
    ) -> None:
        """`limit_s` bounds one step, and is what the target is given beside its sleep; its clock
        wakes it `seconds` after it was told to sleep, during which nobody misses it.  `press`
        presses a key on its console, if it has one."""
        self._agent = agent
        self._limit_s = limit_s
        self._seconds = seconds
        self._press = press

    def refusal(self) -> str:
        """Why the target cannot sleep and wake by itself, or ""."""
        try:
            states = self._read(_STATE).split()
        except TargetError:
            return "this kernel cannot suspend: CONFIG_SUSPEND is not set"
        if "freeze" not in states:
            return f"this kernel cannot suspend to idle, only: {' '.join(states) or 'nothing'}"
        try:
            self._read(_ALARM)
        except TargetError as error:
            return f"nothing would wake the target: {error}"
        return ""

    def prepare(self) -> None:
        """Let keys on its console wake it; undone with the test (drivers/tty/serial/serial_core.c,
        uart_suspend_port())."""
        try:
            names = self._read(_CONSOLES).split()
        except TargetError:  # a kernel without consoles
            names = []
        for name in names:
            path = f"/sys/class/tty/{name}/power/wakeup"
            try:
                self._agent.call("knob", Deadline(self._limit_s), path=path, value="enabled")
            except TargetError as error:  # a console that is no serial port
                log.info("no key on %s wakes the target: %s", name, error.what)

    def sleep(self) -> None:
        """Fall asleep and wake up.  Raises TargetError where the kernel would not."""
        for nth in range(_TRIES):
            done, pressed = self._once(_SILENT_S * 2**nth)
            if done["status"] == 0:
                return
            if not pressed:
                break
        raise TargetError(
            f"did not sleep: {(done['stdout'] + done['stderr']).strip() or done}",
            where=_STATE,
            cure="see the kernel log for what refused to suspend",
        )

    def _once(self, silent_s: float) -> tuple[dict[str, Any], bool]:
        """What rtcwake says, and whether a key was pressed."""
        pressed = False
        argv = ["rtcwake", "-m", "freeze", "-s", f"{self._seconds:.0f}"]
        patience = self._seconds + self._limit_s
        with ThreadPoolExecutor(1) as pool:
            call: Future[dict[str, Any]] = pool.submit(
                self._agent.call, "run", Deadline(patience + 10), argv=argv, timeout=patience
            )
            while not wait([call], silent_s / 4).done:
                if time.monotonic() - self._agent.heard > silent_s:
                    self._try_to_press()
                    pressed = True
            return call.result(), pressed

    def _try_to_press(self) -> None:
        try:
            self._press()
        except HarnessError as error:  # its clock may do without
            log.info("no key can be pressed: %s", error.what)

    def _read(self, path: str) -> str:
        reply = self._agent.call("read", Deadline(self._limit_s), path=path)
        return b64decode(reply["data"]).decode().strip()
