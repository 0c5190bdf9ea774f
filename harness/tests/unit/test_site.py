"""The site, from made-up nights: what its pages say, that they hold together, and do no harm."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import cli
from harness.errors import UsageError
from harness.lab import site, strips, trend
from harness.lab.history import History, default_url
from harness.lab.pages import Pages, plain
from harness.lab.past import Night
from harness.lab.strips import Grid
from harness.lab.weeks import Spread, Weeks, gather
from harness.tests import sites
from harness.tests.nights import Test, night_of, run_of
from harness.tests.sites import EVIL, EVIL_TEST, LOCKED, links_of


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("lab") / "runs"
    sites.nights(runs)
    return sites.write(runs, runs / "site")


def said(page: Path) -> str:
    """A page's text as it is read: without its tags and the white space between them."""
    text = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", page.read_text(), flags=re.S)
    return " ".join(html.unescape(text).split())


def section(front: Path, kind: str) -> str:
    """What the front page says under one heading; "" where that is not there."""
    found = re.search(rf'<details id="{kind}".*?</details>', front.read_text(), re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", found[0])).split()) if found else ""


def page_of(front: Path, words: str) -> Path:
    """The page that the search finds by its text."""
    script = (front.parent / "search.js").read_text()
    index = json.loads(script.removeprefix("window.LAB_INDEX = ").rstrip(";\n"))
    (page,) = (page for _, text, page in index if words in text)
    return Path(front.parent / page)


def test_the_front_page_tells_what_changed(front: Path) -> None:
    assert "possible circular locking dependency: console_lock" in section(front, "new")
    assert "last good 2026-05-05 on 6.12.1" in section(front, "new")
    assert "t.py::mended" in section(front, "fixed").replace("t::", "t.py::")
    assert "old_friend" in section(front, "still")
    assert "known as issue-7" in section(front, "known")
    assert "dead" in section(front, "missing")
    assert "now_and_then" in section(front, "flaky") + section(front, "new")
    assert "1 of 3 targets in trouble" in said(front)
    assert "calm" not in section(front, "new") + section(front, "still")


def test_every_link_leads_somewhere(front: Path) -> None:
    seen = 0
    for page, link, path in sites.lists(front):
        seen += 1
        assert path.exists(), f"{page} leads to {link}"
        fragment = link.partition("#")[2]
        if fragment and path.suffix == ".html":
            assert fragment in links_of(path).ids, f"{page} leads to {link}"
    assert seen > 100


def test_hostile_text_is_text(front: Path) -> None:
    pages = list(front.parent.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        text = page.read_text()
        links = links_of(page)
        assert links.handlers == []
        assert links.tags.count("script") == 1
        assert not set(text) & set("\u202e\x1b\x00"), page
    assert "onerror=window.owned" in said(front)
    # It can be read nevertheless.
    assert "<script>window.owned=1</script>" in said(front)
    assert "\\u202ecba\\x1b[31m" in said(front)


def test_a_finding_tells_since_when_and_what_it_means(front: Path) -> None:
    page = page_of(front, "possible circular locking dependency")
    text = said(page)
    assert "Never up to 6.12.1 (5 results), always on 6.12.2: look between these two." in text
    assert "takes console_lock inside a fence-signalling section" in text
    assert "seen last night" in text
    assert f"{page.stem}.svg" in links_of(page).to
    assert "kworker/2:3/682 is trying to acquire lock" in text
    assert re.search(r"lab mail 'runs/\S+-navi-\w+/t\.py::locked\[gfx\]' --finding", text)


def test_a_test_run_shows_its_steps_and_its_log(front: Path) -> None:
    (link,) = {to for to in links_of(page_of(front, LOCKED)).to if "case/" in to}
    page = (front.parent / "test" / link).resolve()
    text = said(page)
    for step in ("hang gfx_0.0.0", "reset-begin", "reset-done"):
        assert step in text
    raw = page.read_text()
    marked = re.findall(r'<li class="report"[^>]*>', raw)
    assert len(marked) == len(sites.FENCED.rstrip().splitlines()) - 1  # all but the rule above it
    assert re.search(r'<li class="gpu" id="r1"', raw)
    assert any(to.endswith("/kmsg") for to in links_of(page).to)


def test_a_target_shows_its_health_and_its_latency(front: Path) -> None:
    page = page_of(front, "navi")
    (picture,) = re.findall(r'<svg class="trend".*?</svg>', page.read_text(), re.S)
    root = ET.fromstring(picture)
    assert len(root.findall(".//circle")) == sites.NIGHTS
    assert "6.12.2" in "".join(root.itertext())
    assert "no answer" in said(page_of(front, "dead"))


def test_a_target_tells_for_how_long_it_was_unfit(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    path = run_of(runs, "navi", [Test("t.py::a")], unfit="no answer to three resets", how="")
    ended = {"time": "2026-05-01T01:10:01.000+00:00", "what": "run-end", "how": "done"}
    with (path / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps(ended) + "\n")
    text = said(page_of(sites.write(runs, runs / "site"), "navi"))
    assert "10 min E no answer to three resets" in text


def test_a_run_that_is_no_more_costs_the_log_alone(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    sites.nights(runs)
    with History.open(default_url(runs)) as history:
        history.add([runs])
        shutil.rmtree(max(runs.glob("*-navi-*")))
        front = site.write(history, tmp_path / "out")
    page = page_of(front, "possible circular locking dependency")
    assert "No evidence of it is left" in said(page)
    (link,) = {to for to in links_of(page_of(front, LOCKED)).to if "case/" in to}
    text = said((front.parent / "test" / link).resolve())
    assert "not a run directory" in text
    assert "possible circular locking dependency" in text
    assert all(path.exists() for _, _, path in sites.lists(front))


def test_what_a_test_says_itself_has_a_page_with_its_words(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for day in range(2):
        night_of(runs, day, {"navi": [Test("t.py::a", "fail", reason=f"assert {day} == 7")]})
    front = sites.write(runs, runs / "site")
    page = page_of(front, "assert 1 == 7")
    assert "2 times, in 1 test on 1 target" in said(page)
    assert "lab mail" in said(page)


def test_a_mail_knows_what_the_history_beside_its_run_knows(front: Path) -> None:
    run = max(front.parent.parent.glob("*-navi-*"))
    done = CliRunner().invoke(cli.main, ["mail", f"{run}/{LOCKED}"])
    assert done.exit_code == 0, done.output
    assert "last good 6.12.1" in done.output
    assert "in 1 of 6 results of this test on this target" in done.output


def test_a_site_is_written_over_by_the_next_and_nothing_else_is(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    night_of(runs, 0, {"navi": [Test("t.py::a", "fail", "WARNING in a")]})
    sites.write(runs, out)
    (old,) = out.glob("finding/*.html")
    css = (out / "site.css").stat().st_mtime_ns
    for day in (1, 2):
        night_of(runs, day, {"navi": [Test("t.py::a")]})
    sites.write(runs, out, nights=2)
    assert not old.exists()
    assert (out / "site.css").stat().st_mtime_ns == css
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "index.html").write_text("mine")
    with pytest.raises(UsageError, match="no site of ours"):
        sites.write(runs, foreign)
    assert (foreign / "index.html").read_text() == "mine"


def test_a_manifest_leads_nowhere_else(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / ".tdrlab-site.json").write_text(json.dumps(["../victim", str(victim)]))
    Pages(out).close()
    assert victim.read_text() == "mine"


def test_runs_by_hand_have_a_site_too(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    sites.nights(runs)
    for path in runs.glob("2*"):
        facts = json.loads((path / "run.json").read_text())
        (path / "run.json").write_text(json.dumps({**facts, "night": ""}))
    shutil.rmtree(runs / "nights")
    done = CliRunner().invoke(cli.main, ["report", "--runs", str(runs)])
    assert done.exit_code == 0, done.output
    front = runs / "site" / "index.html"
    assert done.output.strip() == front.as_uri()
    assert "old_friend" in said(front)


def test_without_any_run_it_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    done = CliRunner().invoke(cli.main, ["report", "--runs", str(tmp_path / "runs")])
    assert done.exit_code == 2
    assert "the history is empty" in done.output


def drawn(rule: str, at: float) -> list[tuple[str, str]]:
    """What the layers of a strip show at `at` pixels from its left, as (ink, height), without
    what is transparent.  Colours of CSS gradients are mixed between two stops: here never."""
    if not rule:
        return []
    found = re.fullmatch(r"background-image:(.*);background-size:(.*)", rule)
    assert found is not None
    images, sizes = found.groups()
    shown = []
    for image, size in zip(
        re.findall(r"linear-gradient\(90deg,((?:[^()]|\([^()]*\))*)\)", images),
        sizes.split(","),
        strict=True,
    ):
        points: list[tuple[float, str]] = []
        for stop in image.split(","):
            ink, *places = stop.split()
            for place in places:
                reached = points[-1][0] if points else 0.0
                points.append((max(float(place.removesuffix("px")), reached), ink))
        before = [ink for place, ink in points if place <= at]
        after = [ink for place, ink in points if place > at]
        left, right = (before or after[:1])[-1], (after or before[-1:])[0]
        assert left == right, f"{left} runs into {right} at {at}"
        if left != "#0000":
            shown.append((left, size.split()[1]))
    return shown


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40).map(lambda raw: bytes(code % len(strips.STATES) for code in raw)))
def test_a_strip_is_a_bar_for_each_night(strip: bytes) -> None:
    rule = strips.rule(strip, 3)
    for night, code in enumerate(strip):
        state = strips.STATES[code]
        wanted = [(f"var({state.colour})", f"{state.height}%")] if code else []
        for pixel in (0.1, 1.5, 2.9):
            assert drawn(rule, night * 3 + pixel) == wanted
    assert drawn(rule, len(strip) * 3 + 0.1) == []


def test_no_two_states_look_alike() -> None:
    """By letter, for who sees no colour; by height too, but where two are as grave."""
    letters = [state.letter for state in strips.STATES]
    assert len(set(letters)) == len(letters)
    heights = {state.name: state.height for state in strips.STATES}
    assert heights["pass"] < heights["xfail"] < heights["error"] < heights["fail"] == 100


def weeks(runs: Path) -> Weeks:
    with History.open(default_url(runs)) as history:
        history.add([runs])
        return gather(history, list(reversed(history.nights())))


def test_the_worst_attempt_of_a_night_counts(tmp_path: Path) -> None:
    attempts = [Test("t.py::a[x]", "fail", "WARNING in a"), Test("t.py::a[x-@2]")]
    night_of(tmp_path, 0, {"navi": attempts})
    night_of(tmp_path, 1, {"navi": attempts[1:], "gen3": [Test("t.py::b")]})
    grid = weeks(tmp_path).grid
    assert [strips.STATES[code].name for code in grid.strip("t.py::a[x]", "navi")] == [
        "fail",
        "pass",
    ]
    assert not any(grid.strip("t.py::a[x]", "gen3"))
    assert (grid.quiet("t.py::a[x]"), grid.quiet("t.py::b")) == (False, True)


def test_a_test_that_ran_no_more_is_not_quiet(tmp_path: Path) -> None:
    night_of(tmp_path, 0, {"navi": [Test("t.py::a"), Test("t.py::b")]})
    night_of(tmp_path, 1, {"navi": [Test("t.py::b")]})
    grid = weeks(tmp_path).grid
    assert (grid.quiet("t.py::a"), grid.quiet("t.py::b")) == (False, True)


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ([], ["fail"], "as old as"),
        (["pass", "pass"], ["fail"], "Never up to 1.0 (2 results), always on 2.0"),
        (["pass"], ["fail", "pass"], "in 1 of 2 results on 2.0"),
        (["pass"], ["pass", "pass", "fail"], "2.0 ran 2 times without it"),
    ],
)
def test_what_kernels_say_of_a_finding(
    tmp_path: Path, before: list[str], after: list[str], sentence: str
) -> None:
    kernels = [("1.0", outcome) for outcome in before] + [("2.0", outcome) for outcome in after]
    for day, (kernel, outcome) in enumerate(kernels):
        test = Test("t.py::a", "fail", "WARNING in a") if outcome == "fail" else Test("t.py::a")
        night_of(tmp_path, day, {"navi": [test]}, kernel=kernel)
    found = weeks(tmp_path)
    (signature,) = found.seen
    assert sentence in found.suspects(signature)


def test_an_empty_grid_is_one() -> None:
    grid = Grid.empty([Night("n", True, 0.0, None, "", (), {})])
    assert (grid.newest(), grid.last("t", "x").name) == ({}, "missing")


def test_a_trend_survives_nights_without_a_measurement() -> None:
    spreads = [None, Spread(0.5, 1.0, 2.0, 3), None, Spread(1.0, 1.0, 1.0, 1)]
    drawn = trend.render(spreads, ["", "a", "", "<b>"], ["d0", "d1", "d2", "d3"], EVIL)
    root = ET.fromstring(drawn)
    assert len(root.findall(".//circle")) == 2
    assert "<b>" in "".join(root.itertext())
    assert trend.render([None], [""], ["d"], "t") == ""


def test_what_hides_is_spelt_out() -> None:
    assert plain("a\tb\n\x00\x1b\x7f\x9b\u200b\u2066\ufeff\udc80") == (
        "a\tb\n\\x00\\x1b\\x7f\\x9b\\u200b\\u2066\\ufeff\\udc80"
    )
    assert plain("naïve 日本 …") == "naïve 日本 …"


def test_the_evil_test_has_pages(front: Path) -> None:
    assert EVIL_TEST in said(page_of(front, EVIL_TEST))


def test_the_news_tell_what_the_lab_has_seen_before(tmp_path: Path) -> None:
    """On another target, with another kernel; and that the kernel is the one that was good."""
    runs = tmp_path / "runs"
    name = "t.py::one"
    good, bad = Test(name), Test(name, "fail", "WARNING in x")
    night_of(runs, 0, {"old": [bad], "box": [good]}, kernel="6.11.7")
    night_of(runs, 1, {"box": [good]})
    night_of(runs, 2, {"box": [bad]})
    told = section(sites.write(runs, runs / "site"), "new")
    assert "on 6.12.1; last good 2026-05-02 on this very kernel" in told
    assert "first seen 2026-05-01 on 6.11.7, on old " in f"{told} "
