"""Nights made up for the site: everything the front page tells, and text that means harm."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from harness.evidence.files import write_json
from harness.evidence.rundir import RunDir, Window
from harness.lab import site
from harness.lab.history import History, default_url
from harness.tests.kmsg import raw
from harness.tests.nights import Test, night_of
from harness.tests.unit.test_lockdep import FENCED
from harness.verdict import record

__all__ = [
    "EVIL",
    "EVIL_TEST",
    "FENCED",
    "LOCKED",
    "LOG",
    "NIGHTS",
    "Links",
    "links_of",
    "lists",
    "nights",
    "write",
]

# What a kernel that is not ours could print, and a browser must not act upon.
EVIL = (
    "<script>window.owned=1</script><img src=x onerror=window.owned=1>]]>'\"&amp;"
    "\u202ecba\x1b[31m\x00"
)
NIGHTS = 6
OLD, NEW = "6.12.1", "6.12.2"
LOCKED = "t.py::locked[gfx]"
EVIL_TEST = "t.py::evil[<b onmouseover=owned=1>]"
LOG = [
    "lab: start",
    "amdgpu 0000:00:02.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=3, emitted seq=4",
    "amdgpu 0000:00:02.0: amdgpu: GPU reset begin!",
    f"hostile {EVIL}",
    *FENCED.splitlines(),
    "amdgpu 0000:00:02.0: amdgpu: GPU reset(1) succeeded!",
    "lab: end",
]


def nights(runs: Path) -> None:
    """Six of them on three targets: the last brings a lockdep report with its evidence, a
    failure with a hostile title, a fixed one, a known one, a flaky one and a target that died."""
    for day in range(NIGHTS):
        last = day == NIGHTS - 1
        tests = [
            Test("t.py::calm", times={"tdr": 2.0 + day / 10}),
            Test(LOCKED),
            Test("t.py::mended", *(() if last else ("fail", "WARNING in old_bug"))),
            Test("t.py::old", "fail", "WARNING in old_friend"),
            Test("t.py::known", "xfail", "WARNING in well_known", known=("issue-7",)),
            Test("t.py::flaky", *(("fail", "WARNING in now_and_then") if day in (3, 5) else ())),
            Test(EVIL_TEST, *(("fail", f"WARNING in {EVIL}", EVIL) if last else ())),
        ]
        reached = {"navi": tests, "gen3": tests[:1]} | ({} if last else {"dead": tests[:1]})
        troubles = {"dead": f"no answer {EVIL}"} if last else {}
        kernel = NEW if last else OLD
        night_of(runs, day, reached, troubles, kernel)
    _give_evidence(max(runs.glob("*-navi-*")))


def _give_evidence(path: Path) -> None:
    """Streams for the test of the lockdep report, and its verdict as they prove it."""
    run = RunDir.open(path)
    run.update(cards=[{"name": EVIL, "driver": "amdgpu", "pci": "0000:00:02.0"}])
    stream = [raw(seq, 10_000_000 + seq, line) for seq, line in enumerate(LOG)]
    (run.boot("b0") / "kmsg").write_bytes(b"".join(stream))
    armed = {"debug_locks": 1}
    window = Window(
        test=LOCKED, boot_id="b0", first_seq=0, offset=0, last_seq=len(LOG) - 1,
        health_before=armed, health_after={"debug_locks": 0}, destructive=True, body="passed",
    )  # fmt: skip
    write_json(run.test(LOCKED) / "window.json", window)
    record(run, window)
    run.close()


def write(runs: Path, out: Path, nights: int = site.NIGHTS) -> Path:
    """The site of the runs; its front page."""
    with History.open(default_url(runs)) as history:
        history.add([runs])
        return site.write(history, out, nights)


class Links(HTMLParser):
    """Where a page leads, what can be led to in it, and the tags it is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.to: list[str] = []
        self.ids: set[str] = set()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.to.append(value)
            elif name == "id" and value:
                self.ids.add(value)
            elif name.startswith("on"):
                self.handlers.append(name)


def links_of(page: Path) -> Links:
    return Links(page.read_text(encoding="utf-8"))


def lists(front: Path) -> Iterator[tuple[Path, str, Path]]:
    """Every link of every page of a site: the page, the link, the file it names."""
    for page in sorted(front.parent.rglob("*.html")):
        for link in links_of(page).to:
            parts = urlsplit(link)
            if parts.scheme == "data":
                continue
            assert not parts.scheme, (page, link)
            assert not parts.netloc, (page, link)
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            yield page, link, path
