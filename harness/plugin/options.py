"""Options: what may be said to pytest about the targets of a session.

Read by the rest of the plugin with getoption(), save what several of them mean together.
"""

from __future__ import annotations

from pathlib import Path

import pytest

__all__ = ["pytest_addoption", "settle"]

# What --until-fail takes for ever.
MOST_TRIES = 1000


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lab", "GPU targets")
    group.addoption(
        "--target",
        action="append",
        default=[],
        metavar="NAME",
        help="a target of targets.toml to test; may be repeated",
    )
    group.addoption(
        "--inventory",
        type=Path,
        metavar="FILE",
        help="the target list (default: $LAB_TARGETS, else targets.toml)",
    )
    group.addoption(
        "--known",
        type=Path,
        metavar="FILE",
        help="the known issues (default: known-issues.toml beside the target list, if there)",
    )
    group.addoption("--runs", type=Path, metavar="DIR", help="where run directories go")
    group.addoption(
        "--resume",
        type=Path,
        action="append",
        nargs="?",
        const=Path(),
        default=[],
        metavar="RUN",
        help="go on with a run, or without RUN with each target's last one: tests that have a"
        " verdict are not run again, nor is one in which the harness was killed",
    )
    group.addoption(
        "--count",
        type=int,
        default=0,
        metavar="N",
        help="run each test N times",
    )
    group.addoption(
        "--until-fail",
        action="store_true",
        help=f"run each test until one fails, at most {MOST_TRIES} times (or --count)",
    )
    group.addoption(
        "--wait",
        type=float,
        default=0.0,
        metavar="S",
        help="how long to wait for a target that somebody else holds (default: not at all)",
    )
    group.addoption(
        "--kernel",
        default="",
        metavar="RELEASE",
        help="only on targets that run this kernel, as uname -r or a pattern of it: '6.13*'",
    )
    group.addoption(
        "--boot",
        type=Path,
        metavar="DIR",
        help="test this kernel, as a bisect's builder leaves it: it is put on the targets, which"
        " need a boot other than as-is, and booted before each test that finds another one",
    )
    group.addoption("--night", default="", metavar="NAME", help="the nightly that this run is of")
    group.addoption(
        "--storm",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long a storm of jobs blows (default: 10)",
    )
    group.addoption(
        "--deep",
        action="store_true",
        help="also what is too long for CI; what is repeated, ten times as often",
    )
    group.addoption(
        "--dangerous",
        action="store_true",
        help="also hang in ways, and GPUs, from which the machine may not come back",
    )
    group.addoption(
        "--allow-blind",
        action="store_true",
        help="a test that ran without lockdep does not fail the session",
    )


def settle(config: pytest.Config) -> None:
    """What --until-fail means for the other options."""
    if config.getoption("--until-fail"):
        config.option.maxfail = 1
        config.option.count = config.getoption("--count") or MOST_TRIES
