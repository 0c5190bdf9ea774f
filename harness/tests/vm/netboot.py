"""A boot server on loopback, as the machine sees it at 10.0.2.2: QEMU's own DHCP and TFTP, and
HTTP by the standard library."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness import ways
from harness.inventory import Target
from harness.link.virtual import Manifest
from harness.tests.vm import grub, rack

__all__ = ["MAC", "machine"]

MAC = "52:54:00:12:34:56"
PXELINUX = Path("/usr/lib/PXELINUX/pxelinux.0")
LDLINUX = Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")
# What a lab's server says to machines that it knows nothing of.
LOCAL = "SERIAL 0 115200\nDEFAULT local\nLABEL local\n  LOCALBOOT 0\n"
ROM = Path("/usr/share/qemu/efi-virtio.rom"), Path("/usr/lib/ipxe/qemu/efi-virtio.rom")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        return


@contextlib.contextmanager
def machine(made: Manifest, directory: Path, *, http: bool) -> Iterator[Target]:
    """A machine that asks the network first: iPXE by HTTP, or PXELINUX by TFTP; then its disk,
    on which GRUB has the known-good kernel.  Skips where a part is not installed."""
    if not any(path.exists() for path in ROM):
        rack.need(ROM[0], "ipxe-qemu")
    shown = directory / "tftp"
    shown.mkdir()
    with contextlib.ExitStack() as servers:
        if http:
            port = servers.enter_context(_http(shown))
            url, first = f"http://10.0.2.2:{port}/", "first.ipxe"
            script = f"#!ipxe\nchain {url}${{net0/mac:hexhyp}}.ipxe || exit\n"
            (shown / first).write_text(script)
        else:
            url, first = "", PXELINUX.name
            (shown / "pxelinux.cfg").mkdir()
            (shown / "pxelinux.cfg/default").write_text(LOCAL)
            for path, package in ((PXELINUX, "pxelinux"), (LDLINUX, "syslinux-common")):
                rack.need(path, package)
                shutil.copyfile(path, shown / path.name)
        boot = ways.PxeBoot(
            directory=str(shown), mac=MAC, url=url or None, modules="/var/lib/modules"
        )
        yield servers.enter_context(
            rack.running(
                made, directory, "pxe-box", grub.disks(made, directory), boot,
                net=f",tftp={shown},bootfile={first}", card=f"mac={MAC},bootindex=1",
            )
        )  # fmt: skip


@contextlib.contextmanager
def _http(shown: Path) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(shown)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
