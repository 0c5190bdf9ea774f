"""Power switches against real servers: a BMC, a pdudaemon, a QEMU; and that no secret leaks."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from harness import inventory, ways
from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.inventory import Target
from harness.link.power import Power, power_for
from harness.link.secret import hidden
from harness.tests.loopback.servers import (
    PASSWORD,
    PATIENCE_S,
    Serial,
    bmc,
    paused_qemu,
    pdudaemon,
)
from harness.tests.loopback.sshd import free_port


def _power(way: ways.PowerWay) -> Power:
    return power_for(
        Target(driver="i915", name="box", address="box", host_key="SHA256:x", power=way)
    )


def _soon() -> Deadline:
    return Deadline(PATIENCE_S)


def test_a_bmc_switches_tells_and_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serial = Serial()
    secret = tmp_path / "secret"
    secret.write_text(f"{PASSWORD}\n")
    with bmc(tmp_path, serial) as port:
        right = ways.IpmiPower(
            host="127.0.0.1",
            port=port,
            user="lab",
            cipher=3,
            password_file=str(secret),
            settle_s=0.01,
        )
        power = _power(right)
        assert power.query(_soon()) is False
        power.on(_soon())
        assert power.query(_soon()) is True
        power.cycle(_soon())
        assert power.query(_soon()) is True
        done = (tmp_path / "chassis.log").read_text().splitlines()
        sets = [line for line in done if line.startswith("set power")]
        assert sets == ["set power 1", "set power 0", "set power 1"]
        # ipmi_sim has no diagnostic interrupt: what was asked for and refused is an error.
        with pytest.raises(LabError, match="Diag failed"):
            power.nmi(_soon())

        monkeypatch.setenv("LAB_BMC", "wrong-password")
        wrong = _power(msgspec.structs.replace(right, password_file=None, password_env="LAB_BMC"))
        with pytest.raises(LabError, match="power command 'ipmitool': exit status 1") as caught:
            wrong.query(_soon())
        assert "wrong-password" not in str(caught.value)
    serial.close()


def test_a_password_that_is_not_there_is_told_by_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAB_BMC", raising=False)
    with pytest.raises(UsageError, match=r"no \$LAB_BMC"):
        _power(ways.IpmiPower(host="bmc", user="lab", password_env="LAB_BMC")).query(_soon())
    absent = str(tmp_path / "absent")
    with pytest.raises(UsageError, match="cannot read the password of bmc"):
        _power(ways.IpmiPower(host="bmc", user="lab", password_file=absent)).query(_soon())
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UsageError, match="is empty"):
        _power(ways.IpmiPower(host="bmc", user="lab", password_file=str(tmp_path / "empty"))).query(
            _soon()
        )


def test_what_is_said_of_a_failure_has_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDFISH_PASSWORD", "hunter22")
    script = tmp_path / "redfish"
    script.write_text(
        '#!/bin/sh\necho "curl: https://root:$REDFISH_PASSWORD@bmc/redfish: 401, $1" >&2\nexit 22\n'
    )
    script.chmod(0o755)
    power = _power(ways.CommandPower(on=(str(script), "on"), off=(str(script), "off")))
    with pytest.raises(LabError, match="401") as caught:
        power.on(_soon())
    assert "hunter22" not in str(caught.value)
    assert "://***@bmc" in str(caught.value)
    assert hidden("x sesame-open y", "sesame", "sesame-open") == "x *** y"


def test_evidence_names_no_way_but_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "targets.toml"
    path.write_text(
        '[targets.box]\ndriver = "i915"\naddress = "box"\nhost_key = "SHA256:x"\n'
        'power = { kind = "ipmi", host = "bmc", user = "lab", password_env = "LAB_BMC" }\n'
        'console = { kind = "ipmi-sol", host = "bmc", user = "lab", password_env = "LAB_BMC" }\n'
    )
    public = inventory.load(path).get("box").public()
    assert public["power"] == {"kind": "ipmi"}
    assert public["console"] == {"kind": "ipmi-sol"}
    assert "LAB_BMC" not in str(public)


def test_pdudaemon_switches_an_outlet(tmp_path: Path) -> None:
    with pdudaemon(tmp_path) as url:
        power = _power(ways.PdudaemonPower(url=url, pdu="rack", outlet=7, settle_s=0.01))
        power.on(_soon())
        power.cycle(_soon())
        power.off(_soon())
        assert (tmp_path / "outlets").read_text().split("\n")[:-1] == [
            *("7 on", "7 off", "7 on", "7 off")
        ]
        assert power.query(_soon()) is None
        assert power.nmi(_soon()) is False
        other = _power(ways.PdudaemonPower(url=url, pdu="no-such", outlet=7))
        with pytest.raises(LabError, match=r"no-such outlet 7, on: HTTP 500: Invalid request"):
            other.on(_soon())
        (tmp_path / "outlets").unlink()
        slow = _power(ways.PdudaemonPower(url=url, pdu="rack", outlet=7, settle_s=1000))
        with pytest.raises(LabError, match="perhaps without a reset"):
            slow.cycle(_soon())
        assert (tmp_path / "outlets").read_text() == "7 off\n7 on\n", "never left dark"


def test_no_pdudaemon_is_told() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(LabError, match=r"pdudaemon at .*, rack outlet 1, on: .*refused"):
        _power(ways.PdudaemonPower(url=url, pdu="rack", outlet=1)).on(_soon())


def test_a_qemu_of_somebody_elses(tmp_path: Path) -> None:
    with paused_qemu(tmp_path) as path:
        power = _power(ways.QemuPower(socket=str(path)))
        assert power.query(_soon()) is False
        power.on(_soon())
        assert power.query(_soon()) is True
        assert power.nmi(_soon()) is True
        power.off(_soon())
        assert power.query(_soon()) is False
        power.cycle(_soon())
        assert power.query(_soon()) is True
    with pytest.raises(LabError, match="no QEMU answers"):
        power.query(_soon())
