"""The frame of the benchmarks: ratios come from numbers, names are checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tools.bench.__main__ import names
from tools.bench.result import Result

__all__: list[str] = []

_ROOT = Path(__file__).resolve().parents[3]


def test_the_ratio_is_to_the_best_of_the_others() -> None:
    result = Result.of("b", 300.0, "x/s", {"slow": 1.0, "fast": 3.0}, wanted=100.0)
    assert (result.ratio, result.met) == (100.0, True)
    assert Result.of("b", 299.0, "x/s", {"fast": 3.0}, wanted=100.0).met is False


def test_without_a_wish_or_a_rival_nothing_is_claimed() -> None:
    assert Result.of("b", 3.0, "x/s", {"a": 1.0}).met is None
    alone = Result.of("b", 3.0, "x/s", {}, wanted=2.0)
    assert (alone.ratio, alone.met) == (None, None)


def test_a_line_is_one_json_object_with_all_that_was_asked_for() -> None:
    line = Result.of("b", 1 / 3, "x/s", {"a": 2.0}).line()
    assert "\n" not in line
    keys = ["bench", "measured", "unit", "beside", "ratio", "wanted", "met", "note"]
    assert list(json.loads(line)) == keys


def test_an_unknown_benchmark_is_told_with_the_nearest() -> None:
    assert "agent_rate" in names()
    argv = [sys.executable, "-m", "tools.bench", "agent_rat"]
    done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "did you mean 'agent_rate'?" in done.stderr
