"""Runs a client of harness/tests/vm/clients on the target, as a user of the DRM nodes."""

from __future__ import annotations

import io
import zipfile
from base64 import b64encode
from pathlib import Path

from harness.deadline import Deadline
from harness.live.dut import Dut
from harness.tests.inner import ROOT

__all__ = ["run_client"]

# Everything a client may import, under the names it has here.
_PACKAGES = ("harness/agent", "harness/tests/vm/clients")
_PARENTS = ("harness", "harness/tests", "harness/tests/vm")


def _packed(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in _PACKAGES:
            for path in sorted((ROOT / package).rglob("*.py")):
                archive.write(path, path.relative_to(ROOT))
        for parent in _PARENTS:
            archive.writestr(f"{parent}/__init__.py", "")
        archive.write(ROOT / f"harness/tests/vm/clients/{name}.py", "__main__.py")
    return buffer.getvalue()


def run_client(dut: Dut, name: str, *arguments: str, seconds: float) -> tuple[int | None, str]:
    """Its status, None if a signal ended it, and all it printed."""
    path = f"/run/lab-{Path(name).name}.pyz"
    save = "import base64,sys; open(sys.argv[1],'wb').write(base64.b64decode(sys.stdin.read()))"
    argv = ["python3", "-c", save, path]
    stdin = b64encode(_packed(name)).decode()
    done = dut.agent.call("run", Deadline(60), argv=argv, stdin=stdin, timeout=55)
    assert done["status"] == 0, done["stderr"]
    nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--groups=render,video"]
    argv = [*nobody, "--no-new-privs", "python3", path, *arguments]
    done = dut.agent.call("run", Deadline(seconds + 10), argv=argv, timeout=seconds)
    return done["status"], done["stdout"] + done["stderr"]
