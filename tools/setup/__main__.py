"""`python -m tools.setup`: make what is missing, say what was done.

Called by tools/lab in the venv, from the repository's root.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from harness.errors import HarnessError
from harness.link.virtual import cache_root
from tools.setup import packages
from tools.setup.cache import Cache
from tools.setup.progress import Report
from tools.setup.steps import Setup

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Exit status: 0 all there, else that of the error (2 usage, 3 lab), 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="./tools/lab setup",
        description="Set up the virtual targets: packages, kernel, modules, userland, image.",
        epilog=f"The cache is {cache_root()}; removing it is safe and makes the next one cold.",
    )
    parser.add_argument(
        "--kernel-tree",
        type=Path,
        metavar="PATH",
        default=os.environ.get("LAB_KERNEL_TREE") or None,
        help="a Linux 6.12 source tree to copy and build, never written"
        " (default: $LAB_KERNEL_TREE, else Debian's linux-source-6.12)",
    )
    parser.add_argument("--loopback-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--quiet", action="store_true", help="no word when all is there")
    arguments = parser.parse_args(argv)
    tree = Path(arguments.kernel_tree) if arguments.kernel_tree else None
    start = time.monotonic()
    cache, report = Cache(cache_root()), Report()
    setup = Setup(cache, report, tree)
    try:
        if arguments.loopback_only:
            setup.packages(packages.LOOPBACK)
            return 0
        manifest = setup.all()
    except HarnessError as error:
        report.line("error", str(error))
        return error.exit_status
    except KeyboardInterrupt:
        report.line("stopped", "run it again; it continues where it was")
        return 130
    if setup.did or not arguments.quiet:
        took = time.monotonic() - start
        did = ", ".join(setup.did) if setup.did else "nothing to do"
        report.line("ready", f"Linux {manifest.release} from {manifest.source}")
        report.line("ready", f"{did}; {took:.1f} s; the cache holds {cache.size() / 1e9:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
