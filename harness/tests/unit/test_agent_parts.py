"""The agent's pure parts: packets, parsers, arguments, the archive."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness.agent import bytecode
from harness.agent.arguments import Arguments
from harness.agent.cards import cards
from harness.agent.clients import master_pids
from harness.agent.errors import AgentError
from harness.agent.knobs import _chosen
from harness.agent.workload import amdgpu_packets as packets
from harness.link.zipapp import build

__all__: list[str] = []

_AGENT = Path(__file__).parents[2] / "agent"
_POLLED, _TARGET = 0x12_3450_0400, 0x12_3450_0800


def _words(recipe: str, engine: str) -> list[int]:
    return packets.RECIPES[recipe].build(engine, _POLLED, _TARGET)


def test_wait_reg_mem_polls_memory_until_it_is_not_zero() -> None:
    assert _words("wait_reg_mem", "gfx") == [
        *(0xC0053C00, 0x14, 0x34500400, 0x12, 0, 0xFFFFFFFF, 4)
    ]


def test_poll_regmem_polls_without_end() -> None:
    assert _words("poll_regmem", "sdma") == [
        *(0xC0000008, 0x34500400, 0x12, 0, 0xFFFFFFFF, 0x0FFF0004)
    ]


def test_broken_packets_have_broken_headers() -> None:
    assert _words("illegal_opcode", "gfx")[0] == 0xC082F200
    assert _words("illegal_opcode", "sdma")[0] == 0xF2
    assert _words("bad_sdma_header", "sdma")[0] == 0x23DECD3D
    assert _words("illegal_register", "gfx") == [0xC0033700, 1 << 20, 0x54F, 0, 0xDEADBEEF]
    assert _words("illegal_memory", "gfx") == [0xC0033700, 0x100500, 0xDEADBEE0, 0, 0xDEADBEEF]
    promised, *body = _words("bad_length", "compute")
    assert (promised >> 16 & 0x3FFF) + 1 > len(body)
    assert len(_words("bad_sdma_header", "sdma")) == 7


def test_canaries_write_one_dword() -> None:
    assert packets.store("gfx", _TARGET, 0xCAFE, True) == [
        *(0xC0033700, 0x00100500, 0x34500800, 0x12, 0xCAFE)
    ]
    assert packets.store("sdma", _TARGET, 0xCAFE, True) == [2, 0x34500800, 0x12, 0, 0xCAFE]
    assert packets.store("sdma", _TARGET, 0xCAFE, False)[3] == 1


def test_padding_is_each_engines_own() -> None:
    assert packets.pad("gfx", [1, 2], 4) == [1, 2, 0xFFFF1000, 0xFFFF1000]
    assert packets.pad("sdma", [1], 4) == [1, 0, 0, 0]
    assert packets.pad("gfx", [1] * 4, 4) == [1] * 4


def test_every_recipe_fits_before_what_it_polls() -> None:
    for name, recipe in packets.RECIPES.items():
        for engine in recipe.engines:
            assert 4 * len(packets.pad(engine, _words(name, engine), 16)) <= 1024


def test_choice_files_are_restored_to_their_choice() -> None:
    assert _chosen(b"[local] global mono\n") == b"local\n"
    assert _chosen(b"always [madvise] never\n") == b"madvise\n"
    assert _chosen(b"2000\n") == b"2000\n"
    assert _chosen(b"") == b""


def test_masters_are_found_whatever_their_name() -> None:
    table = (
        "             command  tgid dev master a   uid      magic\n"
        "      systemd-logind   412   0   y    y     0          0\n"
        "             Xorg :0   900   0   n    y     0          1\n"
        "            y y 77 n  1234 128   y    n  1000          0\n"
        "           <unknown>    -1   0   n    n     0          0\n"
    )
    assert master_pids(table) == {412, 1234}
    assert master_pids("") == set()


def test_arguments_are_typed_and_complete() -> None:
    arguments = Arguments("op", {"a": 1, "flag": True, "none": None})
    assert arguments.integer("a") == 1
    assert arguments.flag("flag")
    assert arguments.integer("none", None) is None
    arguments.done()
    for bad in ({"a": "1"}, {"a": True}, {"a": None}, {}):
        with pytest.raises(AgentError) as caught:
            Arguments("op", bad).integer("a")
        assert caught.value.kind == "usage"


@pytest.mark.parametrize("bus", ["platform", "faux"])
def test_a_device_that_is_its_drivers_own_idea_is_called_by_its_name(
    bus: str, tmp_path: Path
) -> None:
    """vgem and vkms: without a driver up to 6.15, then with the one of the faux bus."""
    device = tmp_path / "devices" / bus / "vgem"
    (device / "drm/card0").mkdir(parents=True)
    (tmp_path / "class/drm").mkdir(parents=True)
    (device / "subsystem").symlink_to(tmp_path / "bus" / bus)
    if bus == "faux":
        (device / "driver").symlink_to(tmp_path / "bus/faux/drivers/faux_driver")
    (device / "drm/card0/device").symlink_to(device)
    (tmp_path / "class/drm/card0").symlink_to(device / "drm/card0")
    [card] = cards(str(tmp_path), 5.0)
    assert (card["driver"], card["pci"], card["render"]) == ("vgem", None, None)


def test_cards_are_read_from_sysfs(tmp_path: Path) -> None:
    device = tmp_path / "devices/pci0000:00/0000:00:03.0"
    (device / "drm/card1/card1-DP-1").mkdir(parents=True)
    (device / "drm/renderD129").mkdir()
    (device / "power").mkdir()
    driver, module = tmp_path / "bus/pci/drivers/amdgpu", tmp_path / "module/amdgpu"
    driver.mkdir(parents=True)
    (module / "parameters").mkdir(parents=True)
    (tmp_path / "class/drm").mkdir(parents=True)
    for name, text in (
        ("vendor", "0x1002\n"),
        ("device", "0x731f\n"),
        ("revision", "0xc1\n"),
        ("subsystem_vendor", "0x1da2\n"),
        ("subsystem_device", "0xe411\n"),
        ("vbios_version", "113-D1990103\n"),
        ("power/runtime_status", "active\n"),
    ):
        (device / name).write_text(text)
    (module / "srcversion").write_text("ABCDEF\n")
    (module / "parameters/lockup_timeout").write_text("2000\n")
    connector = device / "drm/card1/card1-DP-1"
    (connector / "status").write_text("connected\n")
    (connector / "modes").write_text("1920x1080\n1024x768\n")
    (connector / "edid").write_bytes(b"\0\xff\xff\xff")
    (device / "driver").symlink_to(driver)
    (device / "subsystem").symlink_to(tmp_path / "bus/pci")
    (driver / "module").symlink_to(module)
    (device / "drm/card1/device").symlink_to(device)
    (tmp_path / "class/drm/card1").symlink_to(device / "drm/card1")
    (tmp_path / "class/drm/card1-DP-1").symlink_to(connector)
    (tmp_path / "class/drm/version").write_text("drm 1.1.0\n")
    [card] = cards(str(tmp_path), 5.0)
    assert (card["name"], card["driver"], card["pci"]) == ("card1", "amdgpu", "0000:00:03.0")
    assert (card["primary"], card["render"]) == ("/dev/dri/card1", "/dev/dri/renderD129")
    assert (card["vendor"], card["device"], card["revision"]) == (0x1002, 0x731F, 0xC1)
    assert card["vbios"] == "113-D1990103"
    assert card["module"]["parameters"] == {"lockup_timeout": "2000"}
    assert card["runtime_pm"] == {"control": None, "status": "active"}
    assert card["firmware"] is None
    [found] = card["connectors"]
    assert (found["name"], found["status"]) == ("DP-1", "connected")
    assert found["modes"] == ["1920x1080", "1024x768"]
    assert len(found["edid_sha256"]) == 64
    (connector / "status").write_text("unknown\n")
    cards(str(tmp_path), 5.0)
    assert (connector / "status").read_text() == "detect\n", "whoever is unknown is looked at"
    (connector / "status").write_text("connected\n")
    cards(str(tmp_path), 5.0)
    assert (connector / "status").read_text() == "connected\n", "its modes are known"
    (connector / "modes").write_text("")
    cards(str(tmp_path), 5.0)
    assert (connector / "status").read_text() == "detect\n", "its EDID was never read"
    assert cards(str(tmp_path / "nothing")) == []


def test_the_archive_is_the_same_each_time() -> None:
    data, digest = build()
    told = "from harness.link.zipapp import build; print(build()[1])"
    other = subprocess.run([sys.executable, "-c", told], stdout=subprocess.PIPE, check=True)
    assert other.stdout.decode().strip() == digest, "a process that has loaded other things"
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert "__main__.py" in names
    assert {"agent/workload/amdgpu.py", "agent/workload/amdgpu.pyc"} <= set(names)
    assert "pyudev/__init__.py" in names
    assert not [name for name in names if name.startswith("harness")]


def test_another_pythons_bytecode_is_replaced_for_a_child(tmp_path: Path) -> None:
    foreign = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(build()[0])) as old, zipfile.ZipFile(foreign, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, b"\0\0" + data[2:] if name.endswith(".pyc") else data)
    show = "import agent.frames, sys; sys.stdout.write(agent.frames.__file__)"
    for data, ending in ((foreign.getvalue(), ".py"), (bytecode.add(foreign.getvalue()), ".pyc")):
        (tmp_path / "agent.pyz").write_bytes(data)
        argv = [sys.executable, "-c", show, "x"]
        env = {"PYTHONPATH": str(tmp_path / "agent.pyz")}
        done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, check=True)
        assert done.stdout.decode().endswith(f"agent/frames{ending}")


def test_the_agent_imports_only_itself_the_library_and_pyudev() -> None:
    foreign = set()
    for path in _AGENT.rglob("*.py"):
        for item in ast.walk(ast.parse(path.read_text(), feature_version=(3, 9))):
            if isinstance(item, ast.Import):
                names = [alias.name for alias in item.names]
            elif isinstance(item, ast.ImportFrom) and not item.level:
                names = [item.module or ""]
            else:
                continue
            foreign |= {(path.name, name.partition(".")[0]) for name in names}
    allowed = sys.stdlib_module_names | {"pyudev"}
    assert not [pair for pair in foreign if pair[1] not in allowed]
