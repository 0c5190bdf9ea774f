"""The agent's command line: `serve` for the controller, `workload` for itself.

`serve` speaks frames on stdin and stdout; `workload` speaks JSON lines there.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping

from . import VERSION
from .workload import DRIVERS

__all__ = ["main"]


def main(argv: list[str] | None = None, drivers: Mapping[str, str] = DRIVERS) -> int:
    """Run; the exit status.  `drivers` maps a workload driver's name to its module."""
    parser = argparse.ArgumentParser(prog="agent.pyz", description="tdrlab's part on the target")
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve a controller on stdin and stdout")
    serve.add_argument("--silence", type=float, default=30.0, help="seconds, then it is gone")
    workload = commands.add_parser("workload", help="submit to a GPU; JSON lines")
    workload.add_argument("driver")
    workload.add_argument("--node", default="", help="the render node")
    workload.add_argument("--primary", default="", help="the primary node, to display")
    workload.add_argument("--bailout", type=float, default=120.0, help="seconds a hang may last")
    workload.add_argument("--pass", dest="passed", action="append", default=[], metavar="PATH=FD")
    options = parser.parse_args(argv)
    if options.command == "serve":
        from .server import Server

        status = Server(0, 1, options.silence).serve()
        sys.stderr.flush()
        # Not sys.exit: a thread may be in a system call that never returns.
        os._exit(status)
    from .workload.process import run

    passed = {path: int(fd) for path, _, fd in (one.rpartition("=") for one in options.passed)}
    return run(
        options.driver,
        node=options.node,
        primary=options.primary,
        bailout=options.bailout,
        passed=passed,
        drivers=drivers,
    )


if __name__ == "__main__":
    sys.exit(main())
