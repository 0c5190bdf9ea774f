"""The display workload: sets a mode, flips, and tells which events came.

For any driver with a primary node; it hangs nothing.  Colours are a gradient that
follows from a seed, so that a frame's CRC is the same whenever it is shown.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from typing import Any, Callable

from ..arguments import Arguments
from ..errors import AgentError, target, usage
from . import parcel
from .disturb import Disturber
from .kms_device import KmsDevice, Output, Picture

__all__ = ["KmsWorkload", "open_workload"]

_SEEDS = (1, 2)  # the known frame, and what it is flipped with
_SHARED = 3  # what others may write, as long as they have not


class KmsWorkload:
    """Operations on one primary node; see the methods' docstrings for the wire."""

    overtaking: frozenset[str] = frozenset()

    def __init__(self, device: KmsDevice) -> None:
        self._device = device
        self._shown: tuple[Output, Any, list[Picture]] | None = None
        self._shared: list[Picture] = []
        self._operations: Mapping[str, Callable[[Arguments], dict[str, Any]]] = {
            "outputs": self.outputs,
            "show": self.show,
            "flips": self.flips,
            "blink": self.blink,
            "share": self.share,
            "commit": self.commit,
            "vblank": self.vblank,
            "state": self.state,
            "off": self.off,
        }

    def perform(self, op: str, arguments: Arguments) -> dict[str, Any]:
        """As process.Workload says."""
        operation = self._operations.get(op)
        if operation is None:
            known = ", ".join(self._operations)
            raise usage(f"kms has no operation {op}", cure=f"one of: {known}")
        return operation(arguments)

    def release_all(self) -> None:
        """As process.Workload says: nothing hangs by this."""

    def outputs(self, arguments: Arguments) -> dict[str, Any]:
        """{} -> {"outputs": [{"connector", "crtc", "pipe", "modes": [{"name", "width",
        "height", "hz"}]}]}, the preferred mode first as the kernel sorts them."""
        arguments.done()
        return {
            "outputs": [
                {
                    "connector": output.connector,
                    "crtc": output.crtc,
                    "pipe": output.pipe,
                    "modes": [
                        {
                            "name": mode.name.decode("ascii", "replace"),
                            "width": mode.hdisplay,
                            "height": mode.vdisplay,
                            "hz": mode.vrefresh,
                        }
                        for mode in output.modes
                    ],
                }
                for output in self._device.outputs()
            ]
        }

    def show(self, arguments: Arguments) -> dict[str, Any]:
        """{connector, mode = 0: index} -> {}: the known frame in that mode."""
        connector = arguments.integer("connector")
        index = arguments.integer("mode", 0)
        arguments.done()
        for output in self._device.outputs():
            if output.connector == connector and 0 <= index < len(output.modes):
                break
        else:
            raise usage(f"connector {connector} has no mode {index}", cure="see outputs")
        mode = output.modes[index]
        pictures = [self._device.draw(mode.hdisplay, mode.vdisplay, seed) for seed in _SEEDS]
        self._device.show(output, mode, pictures[0])
        self._shown = (output, mode, pictures)
        return {}

    def flips(self, arguments: Arguments) -> dict[str, Any]:
        """{for_ns, patience_ns} -> {"flips", "lost", "refused"}: flip away from the known frame
        and back, one flip after the other, for about `for_ns`; `lost` when an event did not
        come within `patience_ns`, or the kernel refused the flip with the errno that
        `refused` names, with which it ends.  `flips` counts those whose event came."""
        span = arguments.integer("for_ns")
        patience = arguments.integer("patience_ns")
        arguments.done()
        output, _, pictures = self._current()
        end = time.monotonic_ns() + span
        done = 0
        while not done or time.monotonic_ns() < end:
            for picture in (pictures[1], pictures[0]):
                try:
                    came = self._device.flip(output, picture, patience)
                except AgentError as error:
                    if error.number is None:
                        raise
                    refused = errno.errorcode.get(error.number, str(error.number))
                    return {"flips": done, "lost": True, "refused": refused}
                if not came:
                    return {"flips": done, "lost": True, "refused": ""}
                done += 1
        return {"flips": done, "lost": False, "refused": ""}

    def blink(self, arguments: Arguments) -> dict[str, Any]:
        """{how: dpms|modeset, for_ns} -> {"times"}: switch the output off and on again, for about
        `for_ns` and once at least; it is on at the end."""
        how = arguments.text("how")
        span = arguments.integer("for_ns")
        arguments.done()
        output, mode, pictures = self._current()
        if how not in ("dpms", "modeset"):
            raise usage("blink: how is dpms or modeset")
        number = self._device.property(output, "DPMS") if how == "dpms" else 0
        end = time.monotonic_ns() + span
        times = 0
        while not times or time.monotonic_ns() < end:
            if how == "dpms":
                self._device.dpms(output, number, False)
                self._device.dpms(output, number, True)
            else:
                self._device.off(output)
                self._device.show(output, mode, pictures[0])
            times += 1
        return {"times": times}

    def share(self, arguments: Arguments) -> dict[str, Any]:
        """{to: address} -> {"picture": number}: draw another frame for what is shown, and send
        its buffer to the inbox of a workload that is to write it."""
        address = arguments.text("to")
        arguments.done()
        _, mode, _ = self._current()
        picture = self._device.draw(mode.hdisplay, mode.vdisplay, _SHARED)
        fd = self._device.share(picture)
        try:
            parcel.send(fd, address)
        finally:
            os.close(fd)
        self._shared.append(picture)
        return {"picture": len(self._shared)}

    def commit(self, arguments: Arguments) -> dict[str, Any]:
        """{picture, how: modeset|flip, patience_ns, disturbed = false} -> {"came", "elapsed_ns",
        "signals"}: show a shared frame.  A modeset is one call, which has come when it returns; a
        flip has come with its event, if that was within `patience_ns`.  Of `signals` the first
        hits a `disturbed` modeset while it sleeps, the next when that one is handled."""
        number = arguments.integer("picture")
        how = arguments.text("how")
        patience = arguments.integer("patience_ns")
        disturbed = arguments.flag("disturbed")
        arguments.done()
        output, mode, _ = self._current()
        if not 0 < number <= len(self._shared) or how not in ("modeset", "flip"):
            raise usage("commit: picture is what share returned, how is modeset or flip")
        picture, began, came = self._shared[number - 1], time.monotonic_ns(), True
        signals = 0
        if how == "modeset" and disturbed:
            signals = self._show_disturbed(output, mode, picture)
        elif how == "modeset":
            self._device.show(output, mode, picture)
        else:
            came = self._device.flip(output, picture, patience)
        return {"came": came, "elapsed_ns": time.monotonic_ns() - began, "signals": signals}

    def vblank(self, arguments: Arguments) -> dict[str, Any]:
        """{patience_ns} -> {"came"}: whether the event of the next vblank came."""
        patience = arguments.integer("patience_ns")
        arguments.done()
        output, _, _ = self._current()
        return {"came": self._device.vblank(output, patience)}

    def state(self, arguments: Arguments) -> dict[str, Any]:
        """{} -> {"active", "sequence"}: whether there is a mode, and the vblank counter."""
        arguments.done()
        output, _, _ = self._current()
        active = self._device.active(output)
        return {"active": active, "sequence": self._device.sequence(output) if active else 0}

    def off(self, arguments: Arguments) -> dict[str, Any]:
        """{} -> {}: take the mode down, if there is one."""
        arguments.done()
        shown, self._shown = self._shown, None
        if shown is not None:
            self._device.off(shown[0])
        return {}

    def _show_disturbed(self, output: Output, mode: Any, picture: Picture) -> int:
        """How many signals it took; raises AgentError where any of them was noticed."""
        disturber = Disturber()
        victim = disturber.victim()
        with disturber:
            victim.enter()
            result = self._device.try_show(output, mode, picture)
            victim.leave()
        if result < 0:
            raise target(f"SETCRTC beside {victim.sent} signals", number=-result)
        return victim.sent

    def _current(self) -> tuple[Output, Any, list[Picture]]:
        if self._shown is None:
            raise usage("nothing is shown", cure="show first")
        return self._shown


def open_workload(
    node: str, primary: str, bailout: float, passed: Mapping[str, int]
) -> KmsWorkload:
    """The workload on primary node `primary`.  Raises AgentError."""
    if not primary:
        raise usage("kms needs a primary node", cure="pass primary: /dev/dri/card0 or another")
    return KmsWorkload(KmsDevice(primary))
