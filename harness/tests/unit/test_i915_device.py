"""What is asked of i915 on hardware that is not at hand: by a kernel of our own making."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pytest

from harness.agent.errors import AgentError
from harness.agent.uapi import i915 as abi
from harness.agent.workload.i915_batches import SIZE, TARGET, spin, store
from harness.agent.workload.i915_device import Device
from harness.tests.unit.i915_kernel import G33, HASWELL, RCS, TIGER_LAKE, Kernel

__all__: list[str] = []

BCS, VCS, VECS = 1, 2, 3


@pytest.fixture
def open_on(monkeypatch: pytest.MonkeyPatch) -> Any:
    def on(kernel: Kernel) -> Device:
        kernel.install(monkeypatch)
        return Device("/dev/dri/renderD128")

    return on


def test_a_g33_has_one_engine_and_no_contexts(open_on: Any) -> None:
    device = open_on(Kernel(G33, [(RCS, 0)], contexts=False))
    assert (device.generation, device.contexts, device.softpin) == (3, False, False)
    (rcs,) = device.engines.values()
    assert (rcs.name, rcs.selector) == ("rcs0", abi.EXEC_RENDER)


def test_contexts_name_engines_by_their_own_map(open_on: Any) -> None:
    engines = [(RCS, 0), (BCS, 0), (VCS, 0), (VCS, 2), (VECS, 0), (4, 0)]
    kernel = Kernel(TIGER_LAKE, engines)
    device = open_on(kernel)
    assert list(device.engines) == ["rcs0", "bcs0", "vcs0", "vcs2", "vecs0", "ccs0"]
    assert [engine.selector for engine in device.engines.values()] == list(range(6))
    device.context()
    assert kernel.made[-1] == engines


@pytest.mark.parametrize("second", [False, True])
def test_an_old_kernel_s_engines_are_guessed_from_its_parameters(
    open_on: Any, second: bool
) -> None:
    has = {abi.PARAM_HAS_BSD: 1, abi.PARAM_HAS_BLT: 1, abi.PARAM_HAS_VEBOX: 1}
    kernel = Kernel({**HASWELL, **has, abi.PARAM_HAS_BSD2: int(second)}, None)
    device = open_on(kernel)
    flags = {engine.name: engine.selector for engine in device.engines.values()}
    video = {"vcs0": abi.EXEC_BSD}
    if second:
        both = (abi.EXEC_BSD_RING1, abi.EXEC_BSD_RING2)
        video = {f"vcs{n}": abi.EXEC_BSD | ring for n, ring in enumerate(both)}
    others = {"rcs0": abi.EXEC_RENDER, "bcs0": abi.EXEC_BLT, "vecs0": abi.EXEC_VEBOX}
    assert flags == {**others, **video}
    device.context()
    assert kernel.made[-1] == [], "no map where the kernel has none"


def test_addresses_are_mended_by_the_kernel_where_they_are_not_ours(open_on: Any) -> None:
    kernel = Kernel(G33, [(RCS, 0)], contexts=False)
    device = open_on(kernel)
    buffer, page = device.buffer(), device.buffer()
    presumed = page.address
    command = device.command(
        device.engines["rcs0"], buffer, partial(store, 3, value=7), target=page, written=[99]
    )
    device.send(0, command)
    written, stored, batch = kernel.objects
    assert (written.handle, written.flags) == (99, abi.EXEC_OBJECT_WRITE)
    assert (stored.handle, stored.flags) == (page.handle, abi.EXEC_OBJECT_WRITE)
    assert (batch.handle, batch.flags) == (buffer.handle, 0), "no batch may be written"
    (entry,) = kernel.relocations
    assert (entry.target_handle, entry.offset, entry.delta) == (page.handle, 4, TARGET)
    assert entry.presumed_offset == presumed
    assert entry.read_domains == entry.write_domain == abi.DOMAIN_INSTRUCTION
    (sent,) = kernel.sent
    assert sent.flags == abi.EXEC_RENDER | abi.EXEC_FENCE_OUT
    assert sent.batch_len == SIZE
    assert buffer.address == 0x02000000, "the next batch presumes where it was put"
    assert bytes(buffer.memory[:SIZE]) == store(3, presumed, 7).data


def test_addresses_are_ours_where_contexts_have_their_own(open_on: Any) -> None:
    kernel = Kernel(TIGER_LAKE, [(RCS, 0), (BCS, 0)])
    device = open_on(kernel)
    first, second = device.buffer(), device.buffer()
    assert abs(first.address - second.address) >= SIZE
    build = partial(spin, 8, preemptible=False)
    device.send(5, device.command(device.engines["bcs0"], second, build))
    (batch,) = kernel.objects
    assert kernel.relocations == []
    assert batch.offset == second.address
    assert batch.flags == abi.EXEC_OBJECT_PINNED | abi.EXEC_OBJECT_SUPPORTS_48B_ADDRESS
    (sent,) = kernel.sent
    assert sent.rsvd1 == 5
    assert sent.flags == 1 | abi.EXEC_FENCE_OUT, "the second of the map"


@pytest.mark.parametrize(
    ("refused", "domain"),
    [
        (set(), abi.DOMAIN_WC),
        ({abi.MMAP_OFFSET_WC}, 0),
        ({abi.MMAP_OFFSET_WC, abi.MMAP_OFFSET_FIXED}, abi.DOMAIN_GTT),
    ],
)
def test_buffers_are_mapped_as_the_chip_can(open_on: Any, refused: set[int], domain: int) -> None:
    device = open_on(Kernel(G33, [(RCS, 0)], contexts=False, refused=refused))
    assert device.buffer().domain == domain
    old = open_on(Kernel({**G33, 40: 3}, [(RCS, 0)], contexts=False))
    assert old.buffer().domain == abi.DOMAIN_GTT, "a kernel whose offsets have no kind"


def test_a_chip_that_cannot_be_mapped_is_told(open_on: Any) -> None:
    every = {abi.MMAP_OFFSET_WC, abi.MMAP_OFFSET_FIXED, abi.MMAP_OFFSET_GTT}
    with pytest.raises(AgentError, match="cannot be mapped"):
        open_on(Kernel(G33, [(RCS, 0)], contexts=False, refused=every)).buffer()


def test_an_i915_without_fences_is_told(open_on: Any) -> None:
    kernel = Kernel({**G33, abi.PARAM_HAS_EXEC_FENCE: 0}, [(RCS, 0)])
    with pytest.raises(AgentError, match="gives no fences"):
        open_on(kernel)
    assert not os.path.exists(f"/proc/self/fd/{kernel.files[-1]}"), "its file is left open"
