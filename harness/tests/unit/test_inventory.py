"""targets.toml: what is right is read, what is wrong is told by line, key and cure.

No machine and no network; the file of the project itself is tried too.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.inventory import Inventory, default_path, is_loopback, load

__all__: list[str] = []

_SHIPPED = Path(__file__).resolve().parents[3] / "targets.toml"
_VM = '[targets.vm]\ndriver = "i915"\n'
_BOX = '[targets.box]\ndriver = "i915"\naddress = "box.lab"\nhost_key = "SHA256:x"\n'


_LAB = '[lab]\ncoordinator = "labhost:20408"\n'


def _load(tmp_path: Path, text: str | bytes) -> Inventory:
    path = tmp_path / "targets.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(path)


def _error(tmp_path: Path, text: str | bytes) -> UsageError:
    with pytest.raises(UsageError) as caught:
        _load(tmp_path, text)
    error = caught.value
    assert error.cure
    assert error.where.startswith(str(tmp_path / "targets.toml"))
    return error


def _line(error: UsageError) -> int:
    return int(error.where.rpartition(":")[2])


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        # Unknown keys, wherever they hide; the nearest name is told.
        (_BOX + 'adress = "y"\n', 5, r"targets.box.adress: .*did you mean 'address'"),
        (_BOX + "\n# why\n[tragets.b]\n", 7, "did you mean 'targets'"),
        ('[lab]\nrunz = "x"\n' + _BOX, 2, "lab.runz.*did you mean 'runs'"),
        (_BOX + "limits.boot_z = 3\n", 5, "targets.box.limits.boot_z.*'boot_s'"),
        (_BOX + "limits = { connect_s = 3, boot_z = 4 }\n", 5, "limits.boot_z.*'boot_s'"),
        (_BOX + "[targets.box.limits]\nconnect_s = 3\nboot_z = 4\n", 7, "'boot_s'"),
        (_BOX + '[targets.box.power]\nkind="command"\non=["a"]\nof=["b"]\n', 8, "'off'"),
        (_BOX + 'console = { kind = "serial", port = "x", buad = 3 }\n', 5, "'baud'"),
        (_BOX + _BOX.replace("box", "two") + 'userr = "x"\n', 9, "targets.two.userr.*'user'"),
        (_BOX.replace("targets.box", 'targets."a.b"') + "prot = 3\n", 5, "'port'"),
        ('targets.a = { driver = "i915", address = "x", prot = 3 }\n', 1, "'port'"),
        (_BOX + 'key = """\nprot = 3\n"""\nprot = 3\n', 8, "targets.box.prot.*'port'"),
        (_BOX + "# prot = 3\n'prot' = 3\n", 6, "'port'"),
        (_BOX + "nothing_like_it = 3\n", 5, r"unknown key 'nothing_like_it'$"),
        # Wrong types and values: what was expected and what came.
        (_BOX + 'port = "22"\n', 5, "targets.box.port: expected a whole number, got a string"),
        (_BOX + "port = 2020-01-01\n", 5, "expected a whole number, got a date"),
        (_BOX + "port = 70000\n", 5, "expected a whole number <= 65535"),
        (_BOX + 'destructive = "yes"\n', 5, "expected true or false, got a string"),
        (_BOX + 'limits = { boot_s = "x" }\n', 5, "limits.boot_s: expected a number"),
        (_BOX + "limits.boot_s = 0\n", 5, "limits.boot_s: expected a number > 0"),
        (_BOX + "limits.boot_s = nan\n", 5, "limits.boot_s"),
        (_BOX + 'tags = [\n  "a",\n  3,\n]\n', 5, "targets.box.tags.2|targets.box.tags.1"),
        (_BOX + 'pci = "3:0.0"\n', 5, "expected a PCI address .* 0000:03:00.0"),
        (_BOX.replace('"box.lab"', '""'), 3, "expected a host name or IP address"),
        (_BOX.replace("i915", "i195"), 2, "one of 'amdgpu', 'i915', got 'i195'.*mean 'i915'"),
        (_BOX + 'policy.rearm = "always"\n', 5, "one of 'reboot', 'never', got 'always'"),
        (_BOX + 'console = { kind = "serail" }\n', 5, "'none', 'serial', 'tcp'.*'serial'\\?"),
        (_BOX + 'console = { port = "x" }\n', 5, "'kind' is missing: one of 'none', 'serial'"),
        (_BOX + 'console = { kind = "serial" }\n', 5, "'port' is missing"),
        (_BOX + 'power = { kind = "command", on = [], off = ["x"] }\n', 5, "power.on: .*length"),
        ('# list\n[targets.box]\naddress = "x"\nhost_key = "k"\n', 2, "'driver' is missing"),
        ("targets = 3\n", 1, "targets: expected a table, got a whole number"),
        ("[targets]\na = 3\n", 2, "targets.a: expected a table"),
        ('lab = "x"\n', 1, "lab: expected a table, got a string"),
        ('[[targets]]\ndriver = "i915"\n', 1, "targets: expected a table, got an array"),
        # What only two keys together make wrong.
        (_BOX + 'vm = { gpu = "ati-vga" }\n', 5, "'box': has both an address and a vm"),
        (_VM + 'vm = { gpu = "ati-vga", chip = "g33" }\n', 3, "vm has both a gpu and a chip"),
        (_VM + "vm = { cpus = 1 }\n", 3, "vm has neither a gpu nor a chip"),
        (_VM + 'vm = { chip = "g34" }\n', 3, "one of 'g33', '945g', got 'g34'"),
        ('[targets.box]\ndriver = "i915"\n', 1, "neither an address nor a vm"),
        ('[targets.box]\ndriver = "i915"\naddress = "x"\n', 3, "no host key"),
        (_BOX + 'name = "box"\n', 5, "name is given by the table header"),
        (_BOX + 'place = "box"\n', 5, "is a place, but there is no coordinator"),
        ('[targets.box]\ndriver = "i915"\nreserve = { gen3 = "yes" }\n', 3, "no coordinator"),
        (_LAB + _BOX + 'place = "b"\nreserve = { gen3 = "yes" }\n', 8, "a place and tags"),
        (_LAB + _BOX + 'reserve = { Gen3 = "yes" }\n', 7, "'Gen3' is no tag"),
        (_LAB + _BOX + 'reserve = { name = "box" }\n', 7, "'name' is no tag"),
        (_LAB.replace("labhost", "http://l") + _BOX, 2, "HOST or HOST:PORT"),
        (_LAB.replace("20408", '20408"\ntake_over = "always') + _BOX, 3, "'dead', 'never'"),
        (_BOX + "coordinator.address = 'x'\n", 5, "coordinator"),
        (_BOX.replace("targets.box", 'targets."a b"'), 1, "part of file names"),
        (_BOX.replace("targets.box", 'targets.""'), 1, "part of file names"),
        (_BOX.replace("box.lab", "127.0.0.1") + "destructive = true\n", 5, "this very machine"),
        (_BOX + 'console = { kind = "tcp", host = "h" }\n', 5, "'port' is missing"),
        (_BOX + 'console = { kind = "serial", usb = "0403" }\n', 5, "a USB id as `lsusb` prints"),
        (_BOX + 'console = { kind = "serial", port = "/x", usb = "0403:6001" }\n', 5, "by USB"),
        (_BOX + 'console = { kind = "ipmi-sol", host = "b", user = "u" }\n', 5, "no password"),
        (_BOX + 'console = { kind = "socket", path = "x" }\n', 5, "an absolute path"),
        (_BOX + 'power = { kind = "ipmi", host = "-b" }\n', 5, "a host name"),
        (_BOX + 'power = { kind = "ipmi", host = "b", password = "x" }\n', 5, "key 'password'"),
        (
            _BOX + '[targets.box.power]\nkind = "ipmi"\nhost = "b"\nuser = "u"\n'
            'password_env = "E"\npassword_file = "~/f"\n',
            5,
            "password is named twice",
        ),
        (_BOX + 'power = { kind = "pdudaemon", url = "x", pdu = "p", outlet = 1 }\n', 5, "a URL"),
        (
            _BOX + 'power = { kind = "pdudaemon", url = "http://u:p@h", pdu = "p", outlet = 1 }\n',
            5,
            "power.url: expected a URL",
        ),
        (_BOX + 'power = { kind = "qemo", socket = "/s" }\n', 5, "'pdudaemon', 'ipmi', 'qemu'"),
        (_BOX + 'boot = { kind = "pxe", directory = "/d", mac = "5" }\n', 5, "a MAC address"),
        (_BOX + 'boot = { kind = "grub", grub = "boot" }\n', 5, "an absolute path"),
        (_BOX + 'netconsole = { host = "me" }\n', 5, "an IPv4 address"),
        (_BOX + "netconsole = { port = 70000 }\n", 5, "<= 65535"),
        (_BOX + 'watchdog = { device = "watchdog" }\n', 5, "a file in /dev"),
        (_BOX + "watchdog.timeout_s = 1\n", 5, "watchdog.timeout_s: .*>= 5"),
        # Not TOML at all.
        (_BOX + "x = = 3\n", 5, "not TOML: Invalid value"),
        (_BOX + 'driver = "i915"\n', 5, "not TOML: Cannot overwrite a value"),
        (_BOX + 'tags = ["a",\n', 6, "not TOML"),
        (_BOX + "\0\n", 5, "not TOML"),
        (_BOX.encode() + b"# caf\xe9\n", 5, "not UTF-8 text"),
        (b"\x7fELF\x02\x01\x01\0\xff\xfe", 1, "not UTF-8 text|not TOML"),
    ],
)
def test_each_mistake_is_told_with_its_line(
    tmp_path: Path, text: str | bytes, line: int, said: str
) -> None:
    error = _error(tmp_path, text)
    assert re.search(said, error.what), error.what
    assert _line(error) == line


def test_windows_line_ends_do_not_move_the_line(tmp_path: Path) -> None:
    assert _line(_error(tmp_path, (_BOX + "prot = 3\n").replace("\n", "\r\n"))) == 5


def test_a_long_list_is_searched_in_reasonable_time(tmp_path: Path) -> None:
    boxes = "".join(_BOX.replace("box", f"box{number}") + "\n" for number in range(200))
    assert _line(_error(tmp_path, boxes + _BOX + "prot = 3\n")) == 200 * 5 + 5


def test_no_host_key_says_how_to_get_one(tmp_path: Path) -> None:
    error = _error(tmp_path, '[targets.box]\ndriver = "i915"\naddress = "box.lab"\n')
    assert "ssh-keyscan box.lab | ssh-keygen -lf -" in error.cure


def test_an_unknown_target_names_the_nearest(tmp_path: Path) -> None:
    inventory = _load(tmp_path, _BOX)
    assert inventory.get("box").name == "box"
    with pytest.raises(UsageError, match="no target named 'bocks'") as caught:
        inventory.get("bocks")
    assert caught.value.cure == "choose one of: box"
    with pytest.raises(UsageError, match=r"did you mean 'box'\?"):
        inventory.get("bax")
    with pytest.raises(UsageError) as caught:
        _load(tmp_path, "").get("box")
    assert "none configured" in caught.value.cure


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path / "missing.toml", "No such file"),
        (tmp_path, "Is a directory"),
        (Path("/proc/self/mem"), "cannot read"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            load(path)
        assert str(path) in caught.value.where
        assert "LAB_TARGETS" in caught.value.cure


def test_nested_and_inline_tables_mean_the_same(tmp_path: Path) -> None:
    inline = _load(tmp_path, _BOX + "limits = { boot_s = 9 }\n")
    nested = _load(tmp_path, _BOX + "[targets.box.limits]\nboot_s = 9\n")
    dotted = _load(tmp_path, _BOX + "limits.boot_s = 9\n")
    assert inline.targets == nested.targets == dotted.targets
    assert inline.get("box").limits.boot_s == 9


def test_a_whole_target(tmp_path: Path) -> None:
    box = _load(
        tmp_path,
        _BOX
        + 'port = 2222\nuser = "lab"\nkey = "~/lab"\nknown_hosts = "hosts"\n'
        + 'console = { kind = "serial", port = "/dev/ttyS0" }\n'
        + 'power = { kind = "command", on = ["pdu", "on"], off = ["pdu", "off"] }\n'
        + 'tags = ["gen3"]\ndestructive = true\npci = "0000:03:00.0"\n',
    ).get("box")
    assert (box.port, box.user, box.tags, box.destructive) == (2222, "lab", ("gen3",), True)
    assert box.key == str(Path.home() / "lab")
    assert box.known_hosts == str(tmp_path / "hosts")
    assert not box.virtual
    # What evidence shows names no key and no command line.
    shown = box.public()
    assert "key" not in shown
    assert "pdu" not in str(shown)


@pytest.mark.parametrize(
    "address",
    [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "localhost.localdomain",
        "ip6-localhost",
        "127.0.0.1",
        "127.8.9.1",
        "127.1",
        "0x7f000001",
        "0.0.0.0",
        "::1",
        "[::1]",
        "::",
        "::ffff:127.0.0.1",
        "box.localhost",
    ],
)
def test_this_very_machine_is_known_by_its_spellings(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["gen3-box.lab", "10.0.0.1", "fe80::1", "localhost.lab", "1"])
def test_other_machines_are_not_this_one(address: str) -> None:
    assert not is_loopback(address)


def test_a_harmless_target_may_be_on_loopback(tmp_path: Path) -> None:
    assert not _load(tmp_path, _BOX.replace("box.lab", "127.0.0.1")).get("box").destructive


def test_the_list_that_ships_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    inventory = load(_SHIPPED)
    assert inventory.get("sim-navi").virtual
    gen3 = inventory.get("sim-gen3").vm
    assert gen3 is not None
    assert (gen3.chip, gen3.gpu, gen3.card) == ("g33", None, "modelled g33")
    assert [target.name for target in inventory.virtual()] == list(inventory.targets)
    monkeypatch.setenv("LAB_TARGETS", "/elsewhere")
    assert default_path() == Path("/elsewhere")


def test_its_commented_examples_are_right_too(tmp_path: Path) -> None:
    # A commented table and what follows it up to a blank line.
    text = _SHIPPED.read_text().replace("# coordinator = ", "coordinator = ")
    examples = re.findall(r"^# \[targets\.[^\n]*\n(?:#[^\n]*\n?)*", text, re.MULTILINE)
    assert len(examples) >= 2
    uncommented = "\n".join(re.sub(r"(?m)^# ?", "", example) for example in examples)
    uncommented = f"{text[text.index('[lab]') : text.index('# A software GPU')]}{uncommented}"
    inventory = _load(tmp_path, uncommented)
    assert {"gen3-box", "navi-box"} <= set(inventory.targets)
    for target in inventory.targets.values():
        assert not target.virtual
    # All at once with what is not commented out.
    both = text
    for example in examples:
        both = both.replace(example, re.sub(r"(?m)^# ?", "", example))
    assert len(_load(tmp_path, both).targets) == len(examples) + len(load(_SHIPPED).targets)


_SEEDS = [
    _SHIPPED.read_text(),
    _BOX + 'console = { kind = "serial", port = "x" }\n[targets.box.limits]\nboot_s = 3\n',
    _BOX + 'tags = ["a", "b"]\nvm = { gpu = "g" }\n[targets."q.r"]\n[lab]\nruns = "r"\n',
]
_PIECES = ['"', "'", '"""', "[", "]", "{", "}", "=", ".", "\n", "#", ",", "3", "true", "\\u12", "é"]


@pytest.mark.parametrize("seed", range(300))
def test_any_damage_ends_in_an_error_that_names_a_line(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    text = chance.choice(_SEEDS)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text) + 1)
        until = min(len(text), at + chance.choice([0, 0, 1, 3, 30]))
        words = [*_PIECES, *re.findall(r"\w+", text)]
        text = text[:at] + chance.choice(["", *words]) + text[until:]
    path = tmp_path / "targets.toml"
    path.write_text(text)
    try:
        names = list(load(path).targets)
        told = None
    except UsageError as error:
        names, told = [], error
    if told is None:
        assert all(re.fullmatch(r"[\w.-]+", name) for name in names)
        return
    assert told.cure
    assert told.where.startswith(str(path))
    assert 1 <= _line(told) <= text.count("\n") + 1


def test_every_example_of_the_ways_is_one(tmp_path: Path) -> None:
    text = (_SHIPPED.parent / "harness" / "link" / "README.md").read_text()
    shown = re.findall(r"`(kind = \"(.+?)\".*?)`", text)
    assert len(shown) >= 12
    for example, kind in shown:
        key = "power" if "`power = {" in text[: text.index(example)] else "console"
        whole = example.replace("[...]", '["x"]')
        way = getattr(_load(tmp_path, _BOX + f"{key} = {{ {whole} }}\n").get("box"), key)
        assert way.__struct_config__.tag == kind
