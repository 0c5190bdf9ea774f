"""What is handed to others: mails, bundles with planted secrets, JUnit and JSON."""

from __future__ import annotations

import email
import email.policy
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import zstandard
from click.testing import CliRunner

from harness import cli
from harness.evidence.files import write_json
from harness.evidence.rundir import RunDir, Window
from harness.inventory import load
from harness.lab import bundle, exports, mail, redact, report
from harness.lab.casefile import Case, open_case
from harness.lab.redact import Redactor
from harness.tests.kmsg import raw
from harness.tests.unit.test_lockdep import FENCED
from harness.verdict import record

TEST = "testcases/test_hang.py::test_recovers[gfx]"
PASSING = "testcases/test_hang.py::test_idle"
LIST = "dri-devel@lists.freedesktop.org"
KEY = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtz"
SECRETS = {
    "private key": KEY,
    "host": "gen3-box.secret-lab.example",
    "address": "192.0.2.77",
    "address 6": "2001:db8::77",
    "ethernet address": "52:54:00:ab:cd:ef",
    "pdu password": "hunter22",
    "pdu host": "pdu9.secret-lab.example",
    "key file": "lab_ed25519",
    "host key": "SHA256:LmNvbW1lbnQgdGhhdCBpcyBub3QgYSBrZXkgYXQgYWxs",
    "token": "tok-5e1f",
    "url": "carol:opensesame",
    "bmc": "bmc4.secret-lab.example",
    "bmc user": "labadmin",
    "bmc password": "xyzzy-plugh",
    "builder": "carol@build7.secret-lab.example",
    "home": "carol",
}
TARGETS = """
[targets.box]
driver = "amdgpu"
address = "gen3-box.secret-lab.example"
key = "keys/lab_ed25519"
host_key = "SHA256:LmNvbW1lbnQgdGhhdCBpcyBub3QgYSBrZXkgYXQgYWxs"
power = { kind = "command", on = ["pdu", "pdu9.secret-lab.example", "--password=hunter22", "on"], off = ["pdu", "off", "hunter22"] }
console = { kind = "ipmi-sol", host = "bmc4.secret-lab.example", user = "labadmin", password_file = "PASSWORD" }
"""  # noqa: E501
CHATTER = [
    "Linux version 6.12.0 (carol@build7.secret-lab.example) (gcc 12) #1 SMP",
    "Kernel command line: root=/dev/nfs nfsroot=192.0.2.77:/home/carol/root token=tok-5e1f",
    "eth0: link up, address 52:54:00:ab:cd:ef, 2001:db8::77",
    "fetching https://carol:opensesame@gen3-box.secret-lab.example/x",
    "-----BEGIN OPENSSH PRIVATE KEY-----",
    KEY,
    "-----END OPENSSH PRIVATE KEY-----",
    "host key SHA256:LmNvbW1lbnQgdGhhdCBpcyBub3QgYSBrZXkgYXQgYWxs via keys/lab_ed25519",
]
LOG = [
    *CHATTER,
    "lab: start",
    *FENCED.splitlines(),
    "pdu9.secret-lab.example said hunter22",
    "bmc4.secret-lab.example: labadmin, xyzzy-plugh",
    "lab: end",
]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    """A run of two tests, one with a lockdep report, with secrets wherever one may get."""
    run = RunDir.create(tmp_path / "runs", "box")
    stream = [raw(seq, seq + 1, line) for seq, line in enumerate(LOG)]
    boot = run.boot("b")
    (boot / "kmsg").write_bytes(b"".join(stream))
    (boot / "console.log").write_text("\r\n".join(LOG))
    run.update(
        target={
            "name": "box",
            "driver": "amdgpu",
            "address": SECRETS["host"],
            "host_key": SECRETS["host key"],
        },
        kernel={"uname": {"release": "6.12.0-rc1", "nodename": "gen3-box"}, "cmdline": CHATTER[1]},
        command="pytest --inventory=/home/carol/targets.toml",
        cards=[{"name": "card0", "driver": "amdgpu", "pci": "0000:03:00.0", "vendor": 0x1002}],
    )
    start = len(CHATTER)
    for test in (TEST, PASSING):
        bad = test == TEST
        window = Window(
            test=test,
            boot_id="b",
            first_seq=start if bad else len(LOG) - 1,
            offset=sum(map(len, stream[: start if bad else -1])),
            last_seq=len(LOG) - 1,
            health_before={"debug_locks": 1},
            health_after={"debug_locks": int(not bad)},
            body="passed",
        )
        run.journal.add("test-start", test=test, boot="b")
        write_json(run.test(test) / "window.json", window)
        record(run, window)
        run.journal.add("test-end", test=test, outcome="")
    (run.test(TEST) / "devcoredump").write_bytes(b"\0\1hunter22\0" + SECRETS["host"].encode())
    write_json(run.test(TEST) / "snapshot.json", {"mono": 1, "locks": f"held by\n{KEY} carol@x"})
    run.journal.add("connect-failed", error="gen3-box.secret-lab.example refused")
    yield run
    run.close()


def listed_in(folder: Path) -> str:
    """A target list, and the password that it names."""
    (folder / "password").write_text("xyzzy-plugh\n")
    (folder / "password").chmod(0o600)
    return TARGETS.replace("PASSWORD", str(folder / "password"))


@pytest.fixture
def redactor(tmp_path: Path, run: RunDir) -> Redactor:
    (tmp_path / "targets.toml").write_text(listed_in(tmp_path))
    secrets = [*redact.of_facts(run.facts())]
    for target in load(tmp_path / "targets.toml").targets.values():
        secrets += redact.of_target(target)
    return Redactor(secrets)


def leaks(data: bytes) -> list[str]:
    """Which of the planted secrets are in `data`."""
    return [name for name, secret in SECRETS.items() if secret.encode() in data]


def unpacked(path: Path) -> dict[str, bytes]:
    data = zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {}
        for member in tar.getmembers():
            held = tar.extractfile(member)
            assert held is not None
            members[member.name] = held.read()
        return members


def case_of(run: RunDir, test: str = TEST) -> Case:
    return open_case(run.test(test))


def test_a_bundle_holds_no_planted_secret(run: RunDir, redactor: Redactor, tmp_path: Path) -> None:
    everything = b"".join(path.read_bytes() for path in run.path.rglob("*") if path.is_file())
    assert leaks(everything) == list(SECRETS)
    bundle.write(case_of(run), tmp_path / "b.tar.zst", redactor)
    members = unpacked(tmp_path / "b.tar.zst")
    assert {name: leaks(data) for name, data in members.items() if leaks(data)} == {}
    assert [name for name in members if leaks(name.encode())] == []


def test_a_bundle_can_be_judged_again(run: RunDir, redactor: Redactor, tmp_path: Path) -> None:
    before = case_of(run).verdict
    bundle.write(case_of(run), tmp_path / "b.tar.zst", redactor)
    for name, data in unpacked(tmp_path / "b.tar.zst").items():
        path = tmp_path / "again" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    case = open_case(tmp_path / "again" / run.path.name / "tests" / run.test(TEST).name)
    assert case.run.tests() == [TEST]
    assert case.window is not None
    again = record(case.run, case.window)
    case.run.close()
    assert (again.outcome, again.reason) == (before.outcome, before.reason)
    assert [f.signature for f in again.findings] == [f.signature for f in before.findings]
    assert again.findings[0].text == before.findings[0].text
    assert again.findings[0].place == before.findings[0].place


def test_what_is_dumped_keeps_its_length(run: RunDir, redactor: Redactor, tmp_path: Path) -> None:
    bundle.write(case_of(run), tmp_path / "b.tar.zst", redactor)
    (dump,) = (d for n, d in unpacked(tmp_path / "b.tar.zst").items() if n.endswith("coredump"))
    assert dump == b"\0\1xxxxxxxx\0" + b"x" * len(SECRETS["host"])


@pytest.mark.parametrize(
    "line",
    [
        "[    1.000000] amdgpu 0000:03:00.0: amdgpu: GPU reset(1) succeeded!",
        "Code: 0f 0b 48 8b 05 c6 1e 2f 00",
        "boot 4e95e8e2-a893-4bdb-98ec-969ebe9f5717 at 2026-11-23T00:51:33.821+00:00",
        "(dma_fence_map){++++}-{0:0}, at: drm_sched_job_timedout+0x2b/0xfd [gpu_sched]",
        "testcases/test_hang.py::test_recovers[gfx] 127.0.0.1:22 ::1 255.255.255.0",
        "i2c@7e804000: bus 1, RIP: 0010:sim_irq+0x14/0x28, core::fmt::write",
        "Linux version 6.12.117.1-lab, GuC 70.1.2",
    ],
)
def test_what_is_no_secret_stays(line: str) -> None:
    assert Redactor().text(line) == line


def test_the_same_secret_is_the_same_placeholder() -> None:
    redactor = Redactor([("host", "box.lab")])
    text = redactor.text("box.lab 10.1.1.1\nbox.lab 10.1.1.2 10.1.1.1\nmybox.laboratory\n")
    assert text == "<host-1> <address-1>\n<host-1> <address-2> <address-1>\nmybox.laboratory\n"
    assert redactor.replaced == {"host": 1, "address": 2}


def test_a_password_attached_to_a_short_option(tmp_path: Path) -> None:
    on = '["ipmitool", "-Ilanplus", "-Pplover44", "power", "on"]'
    (tmp_path / "targets.toml").write_text(
        '[targets.box]\ndriver = "amdgpu"\naddress = "192.0.2.7"\nkey = "k"\nhost_key = "h"\n'
        f'power = {{ kind = "command", on = {on}, off = ["pdu", "off"] }}\n'
    )
    redactor = Redactor(redact.of_target(load(tmp_path / "targets.toml").get("box")))
    text = redactor.text("ipmitool -Ilanplus -Pplover44 on\n['-Pplover44'] said plover44\n")
    placeholder = "<credential-1>"
    assert text == (
        f"ipmitool -Ilanplus -P{placeholder} on\n['-P{placeholder}'] said {placeholder}\n"
    )
    assert redactor.text("xplover44 drm-xplover44 --Pplover44") == (
        "xplover44 drm-xplover44 --Pplover44"
    )


def test_a_key_that_was_cut_short_swallows_no_more_than_itself() -> None:
    lines = ["-----BEGIN RSA PRIVATE KEY-----", KEY, "GPU reset begin!", "GPU reset done"]
    assert list(Redactor().lines(lines)) == ["<key-1>", "<key-1>", *lines[2:]]


def test_a_mail_reads_as_one(run: RunDir, redactor: Redactor) -> None:
    case = case_of(run)
    text = mail.compose(case, case.failing[0], None, redactor)
    told = email.message_from_string(text, policy=email.policy.default)
    assert told["To"] == LIST
    assert told["Subject"].startswith("[BUG] amdgpu: possible circular locking dependency: ")
    assert "console_lock" in told["Subject"]
    body = told.get_content()
    assert leaks(text.encode()) == []
    assert "6.12.0-rc1" in body
    assert " -> console_lock (this report)" in body
    assert "    pytest 'testcases/test_hang.py::test_recovers[gfx]' --target=box" in body
    prose, _, log = body.partition("What the kernel printed\n")
    assert [line for line in prose.splitlines() if len(line) > mail.COLUMNS] == []
    # The log as it came: a wrapped one cannot be searched for.
    assert case.failing[0].text in log


def test_a_mail_tells_since_when(run: RunDir) -> None:
    case = case_of(run)
    since = mail.Since(good="6.11.0", bad="6.12.0-rc1", seen=3, runs=9, targets=("box", "other"))
    text = mail.compose(case, case.failing[0], since)
    assert "last good 6.11.0" in text
    assert "in 3 of 9 results" in text
    assert "box, other" in text


def test_hostile_text_makes_no_header_and_no_escape_sequence(run: RunDir) -> None:
    case = case_of(run)
    title = "boom\r\nBcc: all@example.org\x1b[31m \u202e"
    finding = case.failing[0].__class__("warning", "fail", title, "0" * 12, None, "a\x1b]0;b\x07")
    text = mail.compose(case, finding)
    told = email.message_from_string(text, policy=email.policy.default)
    assert told["Bcc"] is None
    assert not set(text) & {"\x1b", "\x07", "\u202e", "\r"}


def test_a_test_that_failed_by_itself_has_a_mail_too(run: RunDir) -> None:
    window = Window(
        test="t.py::t", boot_id="b", first_seq=len(LOG) - 1, offset=0, last_seq=len(LOG) - 1,
        health_before={"debug_locks": 1}, health_after={"debug_locks": 1}, body="failed",
        body_text="AssertionError: 2 recoveries\nassert 2 == 1",
    )  # fmt: skip
    run.journal.add("test-start", test="t.py::t", boot="b")
    write_json(run.test("t.py::t") / "window.json", window)
    record(run, window)
    case = case_of(run, "t.py::t")
    (finding,) = case.failing
    text = mail.compose(case, finding)
    assert "AssertionError: 2 recoveries" in text
    assert "assert 2 == 1" in text


def test_commands_hand_out_one_test(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "targets.toml").write_text(listed_in(tmp_path))
    listed = ["--inventory", str(tmp_path / "targets.toml")]
    runner = CliRunner()
    told = runner.invoke(cli.main, [*listed, "mail", str(run.test(TEST))])
    assert told.exit_code == 0
    assert told.output.startswith(f"To: {LIST}\n")
    none = runner.invoke(cli.main, [*listed, "mail", str(run.test(PASSING))])
    assert none.exit_code == 2
    assert "name a test that failed" in none.output
    out = tmp_path / "b.tar.zst"
    packed = runner.invoke(cli.main, [*listed, "bundle", str(run.test(TEST)), "-o", str(out)])
    assert packed.exit_code == 0
    assert f"{run.path.name}/README" in unpacked(out)
    several = runner.invoke(cli.main, [*listed, "bundle", str(run.path), "-o", str(out)])
    assert several.exit_code == 2
    assert "2 tests" in several.output


# Of the element: what it must have, what it may have, and what may stand in it.
SCHEMA: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"skipped", "time", "timestamp", "hostname", "id", "package"},
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
    "testcase": (
        {"name", "classname"},
        {"time"},
        {"failure", "error", "skipped", "system-out", "system-err"},
    ),
    "failure": (set(), {"type", "message"}, set()),
    "error": (set(), {"type", "message"}, set()),
    "skipped": (set(), {"type", "message"}, set()),
}


def check(element: ET.Element) -> None:
    needed, allowed, children = SCHEMA[element.tag]
    assert needed <= set(element.attrib) <= needed | allowed
    for child in element:
        assert child.tag in children
        check(child)


def test_junit_is_what_its_readers_agree_upon(run: RunDir) -> None:
    report.write(run)
    root = ET.fromstring((run.path / exports.JUNIT).read_bytes())
    check(root)
    (suite,) = root
    cases = suite.findall("testcase")
    assert suite.attrib["tests"] == str(len(cases)) == "2"
    assert suite.attrib["failures"] == str(len(suite.findall("testcase/failure"))) == "1"
    assert cases[0].attrib["classname"] == "box.testcases.test_hang"
    assert cases[0].attrib["name"] == "test_recovers[gfx]"
    (failure,) = cases[0]
    assert failure.attrib["type"] == "lockdep"
    assert "console_lock" in failure.attrib["message"]


def test_a_junit_reader_reads_it(run: RunDir) -> None:
    junitparser = pytest.importorskip("junitparser", reason="junitparser is not installed")
    report.write(run)
    (suite,) = junitparser.JUnitXml.fromfile(str(run.path / exports.JUNIT))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (2, 1, 0, 0)
    bad, good = suite
    assert isinstance(bad.result[0], junitparser.Failure)
    assert good.result == []
    assert {p.name: p.value for p in suite.properties()}["kernel"] == "6.12.0-rc1"


def test_hostile_text_is_xml_still(run: RunDir) -> None:
    path = run.test(TEST) / "verdict.json"
    hostile = "]]> <script>&amp;\x00\x1b[2J\ud7ff\ufffe\u202e"
    write_json(path, {**json.loads(path.read_text()), "reason": hostile})
    report.write(run)
    (suite,) = ET.fromstring((run.path / exports.JUNIT).read_bytes())
    message = suite.find("testcase/failure")
    assert message is not None
    assert message.attrib["message"].startswith("]]> <script>&amp;\ufffd\ufffd[2J")


def test_one_json_tells_the_run(run: RunDir) -> None:
    report.write(run)
    told = json.loads((run.path / exports.JSON).read_text())
    assert (told["target"], told["kernel"]["release"]) == ("box", "6.12.0-rc1")
    assert told["counts"]["fail"] == told["counts"]["pass"] == 1
    bad, good = told["tests"]
    assert (bad["test"], good["outcome"]) == (TEST, "pass")
    assert "console_lock" in bad["findings"][0]["cycle"]
    assert (run.path / bad["directory"] / "verdict.json").exists()
