"""The agent's command line: `serve` for the controller, `workload` for itself.

`serve` speaks frames on stdin and stdout; `workload` speaks JSON lines there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from . import VERSION
from .workload import DRIVERS

__all__ = ["main"]

_USAGE = """\
usage: agent.pyz serve [--silence SECONDS]
       agent.pyz workload DRIVER [--node PATH] [--primary PATH] [--bailout SECONDS]
                                 [--pass PATH=FD]...
       agent.pyz --version
"""


def main(argv: list[str] | None = None, drivers: Mapping[str, str] = DRIVERS) -> int:
    """Run; the exit status.  `drivers` maps a workload driver's name to its module."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        if arguments == ["--version"]:
            print(VERSION)
            return 0
        # Not argparse: on an emulated target its import costs more than all of ours.
        command = arguments.pop(0)
        if command == "serve":
            silence = float(_options(arguments, "--silence").get("--silence", ["30"])[-1])
        elif command == "workload":
            driver = arguments.pop(0)
            given = _options(arguments, "--node", "--primary", "--bailout", "--pass")
            bailout = float(given.get("--bailout", ["120"])[-1])
            pairs = [one.rpartition("=") for one in given.get("--pass", [])]
            passed = {path: int(fd) for path, _, fd in pairs}
        else:
            raise ValueError(command)
    except (IndexError, ValueError):
        sys.stderr.write(_USAGE)
        return 2
    if command == "serve":
        from .guard import Guard
        from .server import Server

        guard = Guard()  # before there is any thread
        status = Server(0, 1, silence, guard).serve()
        guard.close()
        sys.stderr.flush()
        # Not sys.exit: a thread may be in a system call that never returns.
        os._exit(status)
    from .workload.process import run

    status = run(
        driver,
        node=given.get("--node", [""])[-1],
        primary=given.get("--primary", [""])[-1],
        bailout=bailout,
        passed=passed,
        drivers=drivers,
    )
    sys.stderr.flush()
    os._exit(status)  # nothing is left to tidy, and who waits for the end waits for that, too


def _options(arguments: list[str], *known: str) -> dict[str, list[str]]:
    """`--name value` pairs.  Raises ValueError for anything else."""
    given: dict[str, list[str]] = {}
    while arguments:
        name = arguments.pop(0)
        if name not in known or not arguments:
            raise ValueError(name)
        given.setdefault(name, []).append(arguments.pop(0))
    return given


if __name__ == "__main__":
    sys.exit(main())
