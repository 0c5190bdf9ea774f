"""What differs between two prints of one kernel report: boots, builds, machines, consoles.

Each noise rewrites a whole log; the report's signature must not care.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

__all__ = ["NOISES"]

Noise = Callable[[bytes, random.Random], bytes]
_STAMP = re.compile(rb"((?:^<\d+>)?)\[ *(\d+)\.(\d{3,6}) ?\](\[ *[TC]\d+ *\])? ?", re.MULTILINE)
_FIRST = re.compile(rb"^" + _STAMP.pattern.replace(b"(?:^<", b"(?:<"), re.MULTILINE)


def _hex(dice: random.Random, like: bytes) -> bytes:
    return bytes(dice.choice(b"0123456789abcdef") for _ in like)


def addresses(text: bytes, dice: random.Random) -> bytes:
    """Every long hexadecimal number is another, the same one by the same."""
    known: dict[bytes, bytes] = {}

    def other(match: re.Match[bytes]) -> bytes:
        return known.setdefault(match[0], b"f" + _hex(dice, match[0][1:]))

    return re.sub(rb"(?<![\w.+/-])(?=[0-9a-f]*[0-9])[0-9a-f]{8,16}(?![\w.-])", other, text)


def offsets(text: bytes, dice: random.Random) -> bytes:
    """Another compiler laid the functions out."""

    def other(match: re.Match[bytes]) -> bytes:
        size = dice.randrange(0x20, 0x4000)
        return b"+0x%x/0x%x" % (dice.randrange(size), size)

    return re.sub(rb"\+0x[0-9a-f]+/0x[0-9a-f]+", other, text)


def times(text: bytes, dice: random.Random) -> bytes:
    """Another moment of another boot."""
    shift = dice.randrange(1, 50_000)

    def other(match: re.Match[bytes]) -> bytes:
        stamp = b"[%5d.%s]" % (int(match[2]) + shift, match[3])
        return match[1] + stamp + (match[4] or b"") + b" "

    return _STAMP.sub(other, text)


def no_times(text: bytes, dice: random.Random) -> bytes:
    """printk.time=0; without stamps the callers are gone as well, so only where there are none."""
    return text if re.search(rb"\]\[ *[TC]\d+ *\]", text) else _STAMP.sub(rb"\1", text)


def syslog(text: bytes, dice: random.Random) -> bytes:
    """The same through syslog."""
    front = b"Jul %2d 12:00:00 box kernel: " % dice.randrange(1, 29)
    return _FIRST.sub(lambda m: front + m[0].removeprefix(m[1]), text)


def levels(text: bytes, dice: random.Random) -> bytes:
    """dmesg -r."""
    return _FIRST.sub(lambda m: m[0] if m[1] else b"<%d>" % dice.randrange(7) + m[0], text)


def dmesg_x(text: bytes, dice: random.Random) -> bytes:
    """dmesg -x."""
    return _FIRST.sub(lambda m: m[0] if m[1] else b"kern  :warn  : " + m[0], text)


def callers(text: bytes, dice: random.Random) -> bytes:
    """Other tasks and CPUs printed it, or, where none are told, one does now."""
    if re.search(rb"\]\[ *[TC]\d+\]", text):
        known: dict[bytes, bytes] = {}
        used: set[int] = set()

        def other(match: re.Match[bytes]) -> bytes:
            if match[0] not in known:
                number = dice.randrange(1, 99999)
                while number in used:
                    number += 1
                used.add(number)
                known[match[0]] = b"][%6s]" % (b"%s%d" % (match[1], number))
            return known[match[0]]

        return re.sub(rb"\]\[ *([TC])\d+\]", other, text)
    tag = b"[%6s]" % (b"T%d" % dice.randrange(1, 99999))
    return _STAMP.sub(lambda m: m[0].rstrip() + tag + b" ", text)


def numbers(text: bytes, dice: random.Random) -> bytes:
    """Other CPUs and pids."""
    pid, cpu = dice.randrange(1, 32000), dice.randrange(0, 64)
    text = re.sub(rb"\bCPU: \d+", b"CPU: %d" % cpu, text)
    text = re.sub(rb"\bCPU#\d+", b"CPU#%d" % cpu, text)
    text = re.sub(rb"\b[Cc]pu \d+\b", b"cpu %d" % cpu, text)
    text = re.sub(rb"\bPID: \d+", b"PID: %d" % pid, text)
    text = re.sub(rb"\bpid: \d+", b"pid: %d" % pid, text)
    return re.sub(rb"\bby task (\S+)/\d+", rb"by task \1/%d" % pid, text)


def comms(text: bytes, dice: random.Random) -> bytes:
    """Another program ran into it."""
    name = dice.choice([b"Xorg", b"gnome-shell", b"kworker/u9:3", b"a b", b"python3"])
    text = re.sub(rb"\bComm: \S+", b"Comm: " + name, text)
    return re.sub(rb"\bby task [^/\n]+/(\d+)", b"by task %s/" % name + rb"\1", text)


def lock_numbers(text: bytes, dice: random.Random) -> bytes:
    """Lock classes of one name have numbers in the order they were first used."""

    def other(match: re.Match[bytes]) -> bytes:
        return b"#%d%s" % (dice.randrange(2, 40), match[1])

    return re.sub(rb"(?<=[A-Za-z_\])])#\d+((?:/\d+)?[){;])", other, text)


def versions(text: bytes, dice: random.Random) -> bytes:
    """Another kernel."""
    new = b"%d.%d.%d-lab" % (dice.randrange(4, 7), dice.randrange(20), dice.randrange(200))
    return re.sub(rb"((?:Not tainted|Tainted: [A-Z ]+?) ?)\d+\.\d+\S*", rb"\g<1>" + new, text)


def taints(text: bytes, dice: random.Random) -> bytes:
    """Other taint flags."""
    flags = dice.choice([b"G        W  O     ", b"P           OE    ", b"G    B   W         "])
    return re.sub(rb"Not tainted ", b"Tainted: " + flags, text)


def suffixes(text: bytes, dice: random.Random) -> bytes:
    """Another compiler cloned other functions."""
    kinds = [b"", b".isra.%d" % dice.randrange(99), b".constprop.0", b".cold", b".part.3.cold"]

    def other(match: re.Match[bytes]) -> bytes:
        return match[1] + dice.choice(kinds) + b"+0x"

    return re.sub(
        rb"(?<=[ >:])([A-Za-z_]\w+)(?:\.(?:isra|constprop|part|cold)(?:\.\d+)*)*\+0x", other, text
    )


def devices(text: bytes, dice: random.Random) -> bytes:
    """Another slot, other sequence numbers."""
    slot = b"0000:%02x:00.0" % dice.randrange(1, 250)
    text = re.sub(rb"\b[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b", slot, text)
    return re.sub(
        rb"seq(no)?=\d+", lambda m: b"seq%s=%d" % (m[1] or b"", dice.randrange(9**6)), text
    )


def crlf(text: bytes, dice: random.Random) -> bytes:
    """A serial console's line ends, and colours."""
    return b"\x1b[0m" + text.replace(b"\r", b"").replace(b"\n", b"\r\n")


NOISES: dict[str, Noise] = {
    noise.__name__: noise
    for noise in (
        addresses, offsets, times, no_times, syslog, levels, dmesg_x, callers, numbers, comms,
        lock_numbers, versions, taints, suffixes, devices, crlf,
    )
}  # fmt: skip
