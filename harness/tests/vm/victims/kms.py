"""A display client in a few lines: one picture, atomic commits, flips with in-fences.

Runs on the target, from source.  Layouts and numbers: include/uapi/drm/{drm,drm_mode}.h.
"""

from __future__ import annotations

import ctypes as c
import mmap
import os
import select
from typing import Any, Final

NONBLOCK, MODESET, EVENT = 0x200, 0x400, 0x1
CRTC, CONNECTOR, PLANE = 0xCCCCCCCC, 0xC0C0C0C0, 0xEEEEEEEE
MODE_BYTES, HDISPLAY_AT, VDISPLAY_AT = 68, 4, 14

_libc = c.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = [c.c_int, c.c_ulong, c.c_void_p]


def layout(text: str) -> type[Any]:
    """A structure from "u32 a b; u64 c"."""
    kinds: Final = {"u32": c.c_uint32, "u64": c.c_uint64, "name": c.c_char * 32}
    fields = []
    for group in text.split(";"):
        kind, *names = group.split()
        fields += [(name, kinds[kind]) for name in names]
    return type("Layout", (c.Structure,), {"_fields_": fields})


Resources = layout(
    "u64 fbs crtcs connectors encoders; u32 n_fbs n_crtcs n_connectors n_encoders w0 w1 h0 h1"
)
Planes = layout("u64 planes; u32 count")
Connector = layout(
    "u64 encoders modes props values; u32 n_modes n_props n_encoders encoder id type type_id"
    " connection mm_w mm_h subpixel pad"
)
Properties = layout("u64 props values; u32 count id type")
Property = layout("u64 values enums; u32 id flags; name name; u32 n_values n_enums")
Framebuffer = layout("u32 id width height pitch bpp depth handle")
Dumb = layout("u32 height width bpp flags handle pitch; u64 size")
Offset = layout("u32 handle pad; u64 offset")
Atomic = layout("u32 flags count; u64 objects counts props values reserved user")
Blob = layout("u64 data; u32 length id")
Capability = layout("u64 capability value")


def once(fd: int, number: int, argument: Any, direction: int = 3) -> int:
    """One ioctl, made by us exactly once: its negative errno, or what it returned."""
    request = direction << 30 | c.sizeof(argument) << 16 | ord("d") << 8 | number
    result: int = _libc.ioctl(fd, request, c.addressof(argument))
    return result if result >= 0 else -c.get_errno()


def must(fd: int, number: int, argument: Any, direction: int = 3) -> Any:
    """The argument, filled in."""
    result = once(fd, number, argument, direction)
    if result < 0:
        raise OSError(-result, f"DRM ioctl {number:#x}")
    return argument


class Display:
    """The card's only connector, CRTC and plane, and two pictures."""

    def __init__(self, node: str) -> None:
        self.fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)
        for capability in (2, 3):  # universal planes, atomic
            must(self.fd, 0x0D, Capability(capability, 1), 1)
        ids = [(c.c_uint32 * 8)() for _ in range(4)]
        where = [c.addressof(array) for array in ids]
        must(self.fd, 0xA0, Resources(*where, 8, 8, 8, 8))
        self.crtc, self.connector = ids[1][0], ids[2][0]
        planes = (c.c_uint32 * 8)()
        must(self.fd, 0xB5, Planes(c.addressof(planes), 8))
        self.plane = planes[0]
        self._names: dict[int, dict[str, int]] = {}
        self._mode = self._first_mode()
        self.width, self.height = (
            int.from_bytes(self._mode[at : at + 2], "little") for at in (HDISPLAY_AT, VDISPLAY_AT)
        )
        self.pictures = [self._picture(value) for value in (0x35, 0xA7)]

    def show(self, picture: int) -> None:
        """Set the mode, with this picture."""
        blob = c.create_string_buffer(self._mode, MODE_BYTES)
        mode = must(self.fd, 0xBD, Blob(c.addressof(blob), MODE_BYTES)).id
        width, height = self.width, self.height
        result = self.commit(
            MODESET,
            [
                (CONNECTOR, self.connector, {"CRTC_ID": self.crtc}),
                (CRTC, self.crtc, {"MODE_ID": mode, "ACTIVE": 1}),
                (
                    PLANE,
                    self.plane,
                    {
                        "FB_ID": self.pictures[picture],
                        "CRTC_ID": self.crtc,
                        **{"SRC_X": 0, "SRC_Y": 0, "SRC_W": width << 16, "SRC_H": height << 16},
                        **{"CRTC_X": 0, "CRTC_Y": 0, "CRTC_W": width, "CRTC_H": height},
                    },
                ),
            ],
        )
        if result:
            raise OSError(-result, "modeset")

    def flip(self, picture: int, flags: int, fence: int = -1) -> int:
        """One commit of another picture, after `fence`, a sync file; 0 or a negative errno."""
        values = {"FB_ID": self.pictures[picture]}
        if fence >= 0:
            values["IN_FENCE_FD"] = fence
        return self.commit(flags, [(PLANE, self.plane, values)])

    def commit(self, flags: int, objects: list[tuple[int, int, dict[str, int]]]) -> int:
        """An atomic commit: (type, id, {property: value})."""
        pairs = [
            (self._property(kind, number, name), value)
            for kind, number, values in objects
            for name, value in values.items()
        ]
        numbers = (c.c_uint32 * len(objects))(*(number for _, number, _ in objects))
        counts = (c.c_uint32 * len(objects))(*(len(values) for _, _, values in objects))
        names = (c.c_uint32 * len(pairs))(*(name for name, _ in pairs))
        values = (c.c_uint64 * len(pairs))(*(value for _, value in pairs))
        arrays = [c.addressof(array) for array in (numbers, counts, names, values)]
        return once(self.fd, 0xBC, Atomic(flags, len(objects), *arrays, 0, 0))

    def flipped(self, seconds: float) -> bool:
        """Whether the event of a flip comes within that time."""
        ready, _, _ = select.select([self.fd], [], [], seconds)
        return bool(ready) and len(os.read(self.fd, 4096)) > 0

    def _first_mode(self) -> bytes:
        asked = must(self.fd, 0xA7, Connector(id=self.connector))
        modes = c.create_string_buffer(MODE_BYTES * asked.n_modes)
        must(
            self.fd,
            0xA7,
            Connector(id=self.connector, modes=c.addressof(modes), n_modes=asked.n_modes),
        )
        return modes.raw[:MODE_BYTES]

    def _picture(self, value: int) -> int:
        dumb = must(self.fd, 0xB2, Dumb(self.height, self.width, 32))
        at = must(self.fd, 0xB3, Offset(dumb.handle)).offset
        with mmap.mmap(self.fd, dumb.size, offset=at) as memory:
            memory.write(bytes([value]) * dumb.size)
        made = must(
            self.fd,
            0xAE,
            Framebuffer(0, self.width, self.height, dumb.pitch, 32, 24, dumb.handle),
        )
        return int(made.id)

    def _property(self, kind: int, number: int, name: str) -> int:
        if number not in self._names:
            numbers, values = (c.c_uint32 * 64)(), (c.c_uint64 * 64)()
            asked = must(
                self.fd,
                0xB9,
                Properties(c.addressof(numbers), c.addressof(values), 64, number, kind),
            )
            self._names[number] = {
                must(self.fd, 0xAA, Property(id=prop)).name.decode(): prop
                for prop in numbers[: asked.count]
            }
        return self._names[number][name]


class Crc:
    """CRCs of what is scanned out, by DRM's debugfs."""

    def __init__(self, debugfs: str) -> None:
        self._path = f"{debugfs}/crtc-0/crc"

    def settle(self, wanted: int | None, frames: int = 120) -> int:
        """That of the first frame which is `wanted`, or of the last of `frames`."""
        with open(f"{self._path}/control", "w") as control:
            control.write("auto")
        crc = -1
        data = os.open(f"{self._path}/data", os.O_RDONLY)
        try:
            for _ in range(frames):
                crc = int(os.read(data, 64).split(b"\n")[0].split()[1], 16)
                if crc == wanted:
                    break
        finally:
            os.close(data)
        return crc
