"""A primary node as DRM master: outputs, framebuffers, modes, flips, vblank events.

ctypes over ioctl, for any modesetting driver; what is made here lives until the
process ends, which is when the kernel takes the mode down, too.
"""

from __future__ import annotations

import ctypes as c
import itertools
import mmap
import os
import select
import struct
import time
from typing import Any, Callable, NamedTuple

from ..errors import AgentError, target
from ..uapi import drm
from ..uapi import kms as abi
from ..uapi.ioc import Ioctl, attempt, perform
from .node import open_node

__all__ = ["KmsDevice", "Output", "Picture"]

_BITS = 32
_EVENTS = 4096


class Output(NamedTuple):
    """A connector with a monitor, a CRTC that can drive it (`pipe` is its index), its modes."""

    connector: int
    crtc: int
    pipe: int
    modes: list[Any]


class Picture(NamedTuple):
    """A framebuffer, drawn once and for all."""

    framebuffer: int
    memory: mmap.mmap
    handle: int


class KmsDevice:
    """An open primary node.  One thread."""

    def __init__(self, node: str) -> None:
        """Open it and become master.  Raises AgentError: not there, or somebody else is."""
        self.node = node
        self.fd = open_node(node)
        try:
            # Whoever opens a node that has no master becomes it; this only asks whether we are.
            perform(self.fd, abi.SET_MASTER, c.c_uint64())
        except AgentError as error:
            raise target(
                f"cannot become DRM master: {error}",
                node,
                "stop the display server that has it",
                error.number,
            ) from error
        self._tags = itertools.count(1)

    def outputs(self) -> list[Output]:
        """What can show a picture now, in the kernel's order.  Raises AgentError."""
        resources = abi.DrmModeCardRes()
        perform(self.fd, abi.GETRESOURCES, resources)
        crtcs = (c.c_uint32 * resources.count_crtcs)()
        connectors = (c.c_uint32 * resources.count_connectors)()
        again = abi.DrmModeCardRes(
            crtc_id_ptr=c.addressof(crtcs),
            connector_id_ptr=c.addressof(connectors),
            count_crtcs=len(crtcs),
            count_connectors=len(connectors),
        )
        perform(self.fd, abi.GETRESOURCES, again)
        found = [self._output(number, list(crtcs)) for number in connectors]
        return [output for output in found if output is not None]

    def draw(self, width: int, height: int, seed: int) -> Picture:
        """A framebuffer of XRGB8888 whose every pixel follows from `seed`.  Raises AgentError."""
        made = abi.DrmModeCreateDumb(width=width, height=height, bpp=_BITS)
        perform(self.fd, abi.CREATE_DUMB, made)
        place = abi.DrmModeMapDumb(handle=made.handle)
        perform(self.fd, abi.MAP_DUMB, place)
        memory = mmap.mmap(self.fd, made.size, offset=place.offset)
        for y in range(height):
            pixel = (seed * 0x9E3779B1 + y * 0x010305) & 0xFFFFFF
            at = y * made.pitch
            memory[at : at + 4 * width] = struct.pack("<I", pixel) * width
        asked = abi.DrmModeFbCmd2(width=width, height=height, pixel_format=abi.FORMAT_XRGB8888)
        asked.handles[0] = made.handle
        asked.pitches[0] = made.pitch
        perform(self.fd, abi.ADDFB2, asked)
        return Picture(asked.fb_id, memory, made.handle)

    def share(self, picture: Picture) -> int:
        """A picture's buffer as a dma-buf, the caller's to close.  Raises AgentError."""
        asked = drm.DrmPrimeHandle(handle=picture.handle, flags=drm.PRIME_RDWR)
        perform(self.fd, drm.DRM_IOCTL_PRIME_HANDLE_TO_FD, asked)
        return int(asked.fd)

    def show(self, output: Output, mode: Any, picture: Picture) -> None:
        """Set the mode.  Raises AgentError."""
        self._set(perform, output, mode, picture)

    def try_show(self, output: Output, mode: Any, picture: Picture) -> int:
        """The same, asked once: 0 or the negative errno."""
        return self._set(attempt, output, mode, picture)

    def _set(
        self,
        ask: Callable[[int, Ioctl, Any], int],
        output: Output,
        mode: Any,
        picture: Picture,
    ) -> int:
        connectors = (c.c_uint32 * 1)(output.connector)
        asked = abi.DrmModeCrtc(
            set_connectors_ptr=c.addressof(connectors),
            count_connectors=1,
            crtc_id=output.crtc,
            fb_id=picture.framebuffer,
            mode_valid=1,
            mode=mode,
        )
        return ask(self.fd, abi.SETCRTC, asked)

    def off(self, output: Output) -> None:
        """Take the mode down.  Raises AgentError."""
        perform(self.fd, abi.SETCRTC, abi.DrmModeCrtc(crtc_id=output.crtc))

    def active(self, output: Output) -> bool:
        """Whether the kernel says that the CRTC has a mode.  Raises AgentError."""
        answer = abi.DrmModeCrtc(crtc_id=output.crtc)
        perform(self.fd, abi.GETCRTC, answer)
        return bool(answer.mode_valid)

    def property(self, output: Output, name: str) -> int:
        """The number of a property of the connector.  Raises AgentError where it has none."""
        asked = abi.DrmModeGetConnector(connector_id=output.connector)
        perform(self.fd, abi.GETCONNECTOR, asked)
        numbers = (c.c_uint32 * asked.count_props)()
        values = (c.c_uint64 * asked.count_props)()
        modes = (abi.DrmModeModeinfo * 1)()
        again = abi.DrmModeGetConnector(
            connector_id=output.connector,
            props_ptr=c.addressof(numbers),
            prop_values_ptr=c.addressof(values),
            modes_ptr=c.addressof(modes),  # some room: without any the monitor is looked at anew
            count_props=len(numbers),
            count_modes=1,
        )
        perform(self.fd, abi.GETCONNECTOR, again)
        for number in numbers:
            told = abi.DrmModeGetProperty(prop_id=number)
            perform(self.fd, abi.GETPROPERTY, told)
            if told.name == name.encode():
                return int(number)
        raise target(f"connector {output.connector} has no property {name}", self.node)

    def dpms(self, output: Output, number: int, on: bool) -> None:
        """Switch the output on or off by its property `number`, DPMS.  Raises AgentError."""
        asked = abi.DrmModeConnectorSetProperty(
            value=abi.DPMS_ON if on else abi.DPMS_OFF, prop_id=number, connector_id=output.connector
        )
        perform(self.fd, abi.SETPROPERTY, asked)

    def sequence(self, output: Output) -> int:
        """The vblank counter.  Raises AgentError; EOPNOTSUPP where the driver has none."""
        answer = abi.DrmCrtcGetSequence(crtc_id=output.crtc)
        perform(self.fd, abi.CRTC_GET_SEQUENCE, answer)
        return int(answer.sequence)

    def flip(self, output: Output, picture: Picture, timeout_ns: int) -> bool:
        """Flip, and whether the event of it came.  Raises AgentError; EBUSY while one is due."""
        tag = next(self._tags)
        asked = abi.DrmModeCrtcPageFlip(
            crtc_id=output.crtc,
            fb_id=picture.framebuffer,
            flags=abi.PAGE_FLIP_EVENT,
            user_data=tag,
        )
        perform(self.fd, abi.PAGE_FLIP, asked)
        return self._came(tag, timeout_ns)

    def vblank(self, output: Output, timeout_ns: int) -> bool:
        """Whether the event of the next vblank came.  Raises AgentError."""
        tag = next(self._tags)
        asked = abi.DrmCrtcQueueSequence(
            crtc_id=output.crtc, flags=abi.SEQUENCE_RELATIVE, sequence=1, user_data=tag
        )
        perform(self.fd, abi.CRTC_QUEUE_SEQUENCE, asked)
        return self._came(tag, timeout_ns)

    def _came(self, tag: int, timeout_ns: int) -> bool:
        """Wait for the event with this tag; those of others, come too late, are dropped."""
        end = time.monotonic_ns() + timeout_ns
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        while poller.poll(max(0, end - time.monotonic_ns()) / 1e6 + 1):
            data = os.read(self.fd, _EVENTS)
            while data:
                event = abi.DrmEventVblank.from_buffer_copy(data)
                if event.user_data == tag:
                    return True
                data = data[event.base.length :]
            if time.monotonic_ns() > end:
                break
        return False

    def _output(self, number: int, crtcs: list[int]) -> Output | None:
        # The first call with no room for modes makes the kernel look at the monitor anew.
        asked = abi.DrmModeGetConnector(connector_id=number)
        perform(self.fd, abi.GETCONNECTOR, asked)
        modes = (abi.DrmModeModeinfo * asked.count_modes)()
        encoders = (c.c_uint32 * asked.count_encoders)()
        again = abi.DrmModeGetConnector(
            connector_id=number,
            modes_ptr=c.addressof(modes),
            encoders_ptr=c.addressof(encoders),
            count_modes=len(modes),
            count_encoders=len(encoders),
        )
        perform(self.fd, abi.GETCONNECTOR, again)
        if again.connection != abi.CONNECTED or not modes:
            return None
        for encoder in encoders:
            answer = abi.DrmModeGetEncoder(encoder_id=encoder)
            perform(self.fd, abi.GETENCODER, answer)
            for pipe, crtc in enumerate(crtcs):
                if answer.possible_crtcs >> pipe & 1:
                    return Output(number, crtc, pipe, list(modes))
        return None
