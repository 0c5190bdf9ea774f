"""The tree itself: types, style, and who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from harness.link.virtual import cache_root
from harness.tests.inner import ROOT

# Floors, top to bottom; a room knows only rooms below it (and its own floor's).
FLOORS = [
    {"plugin", "cli", "desk_commands"},
    {"desk", "doctor", "doctor_ways"},
    {"bisect", "fleet", "lab"},
    {"live"},
    {"verdict"},
    {"account", "coverage", "findings", "known", "lastwords", "masking"},
    {"link", "labgrid", "gpu", "kernel", "fence"},
    {"evidence", "agent"},
    {"inventory", "tomlerror", "ways"},
    {"deadline", "errors", "host", "check"},
]
PURE = ("kernel", "gpu", "fence")


@cache
def sources() -> tuple[Path, ...]:
    return tuple(p for p in (ROOT / "harness").rglob("*.py") if "tests" not in p.parts)


@cache
def imports(path: Path) -> frozenset[str]:
    """The modules of the harness that `path` imports, by absolute name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(name for name in found if name.split(".")[0] == "harness")


def floor(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def room(path: Path) -> str:
    return path.relative_to(ROOT / "harness").parts[0].removesuffix(".py")


def test_a_room_knows_only_rooms_below_it() -> None:
    wrong = []
    for path in sources():
        if room(path) == "__init__":
            continue
        for name in imports(path):
            parts = name.split(".")
            known = len(parts) > 1 and any(parts[1] in rooms for rooms in FLOORS)
            if known and floor(parts[1]) < floor(room(path)):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_the_agent_imports_nothing_of_the_hosts() -> None:
    agent = [path for path in sources() if room(path) == "agent"]
    assert agent
    assert {name for path in agent for name in imports(path)} == set()


def test_pure_rooms_open_no_socket() -> None:
    for path in sources():
        if room(path) in PURE:
            names = imports(path)
            assert not any(name.startswith("harness.link") for name in names), path
            text = path.read_text()
            assert "import socket" not in text, path
            assert "import subprocess" not in text, path


def test_labgrid_is_imported_only_where_a_coordinator_is_named() -> None:
    modules = "harness.fleet, harness.desk_commands, harness.lab.nightly"
    code = f"import sys, {modules}; print([m for m in sys.modules if 'labgrid' in m])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_nothing_but_the_plugin_imports_pytest() -> None:
    users = {
        room(path)
        for path in sources()
        if any(
            line.startswith(("import pytest", "from pytest"))
            for line in path.read_text().splitlines()
        )
    }
    assert users == {"plugin"}


@pytest.mark.parametrize(
    "argv",
    [
        ["ruff", "check", "--no-cache"],
        ["ruff", "format", "--check", "--no-cache"],
        # Beside what set-up keeps: else each clone types all anew, for 20 s.
        ["mypy", "--cache-dir", str(cache_root() / "mypy")],
    ],
    ids=["lint", "format", "types"],
)
def test_checkers_are_content(argv: list[str]) -> None:
    pytest.importorskip(argv[0], reason="the development tools are not installed")
    done = subprocess.run([sys.executable, "-m", *argv], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
