"""Fences that userspace itself signals, and their ways from driver to driver: no GPU is needed.

What a sync file, a dma-buf and vgem promise; if these do not hold, nothing that is said of a
GPU's fences means anything.
"""

from __future__ import annotations

import errno

import pytest

from harness.deadline import Deadline
from harness.live.dut import Dut
from harness.live.generic import Generic

# A look, no wait; and what any step may take on a slow machine, in seconds.
NOW, PATIENCE_S = 0.0, 60.0
# After which vgem ends a fence that nobody signalled (vgem_fence.c, VGEM_FENCE_TIMEOUT), less a
# tick, in seconds.
EXPIRES_S = 9.98


def with_sw_sync(dut: Dut) -> Generic:
    client = dut.generic()
    if client.no_sw_sync:
        pytest.skip(client.no_sw_sync)
    return client


def with_vgem(dut: Dut) -> Generic:
    client = dut.generic()
    if client.no_vgem:
        pytest.skip(client.no_vgem)
    return client


def test_a_timeline_signals_in_order(dut: Dut) -> None:
    """sw_sync.c, sync_timeline_signal: what the timeline has reached signals, in its order, and
    nothing else; sync_file_merge: both must.  sw_sync_debugfs_release: what is pending when the
    timeline is closed ends, with ENOENT.

    Source: drivers/dma-buf/sw_sync.c sync_timeline_signal(), sw_sync_debugfs_release(),
    drivers/dma-buf/sync_file.c sync_file_merge().
    Runs on: generic.
    """
    client = with_sw_sync(dut)
    third, first, second = (client.fence(value) for value in (3, 1, 2))
    both = client.merge(third, first)
    assert not client.wait(first, Deadline(NOW)), "a fence signals before its time"

    client.advance(2)
    assert client.wait(second, Deadline(PATIENCE_S)), "a fence does not signal"
    one, two, three = (client.info(fence) for fence in (first, second, third))
    assert (one.status, two.status, three.status) == (1, 1, 0)
    assert 0 < one.timestamps[0] <= two.timestamps[0], "later fences signal first"
    assert not client.wait(both, Deadline(NOW)), "a merged fence signals with the first"

    client.close_timeline()
    assert client.wait(both, Deadline(PATIENCE_S)), "a fence outlives its timeline"
    assert client.info(third).status == -errno.ENOENT
    assert client.info(both).status == -errno.ENOENT, "a merged fence has no error"


def test_fences_go_into_a_buffer_and_out_again(dut: Dut) -> None:
    """dma-buf.c, dma_buf_import_sync_file and _export_: who writes waits for a reader's fence, who
    reads does not; and both for a writer's.  What comes out is what went in.

    Source: drivers/dma-buf/dma-buf.c dma_buf_import_sync_file(), dma_buf_export_sync_file().
    Runs on: generic.
    """
    client = with_sw_sync(dut)
    if client.no_vgem:
        pytest.skip(client.no_vgem)
    buffer = client.buffer()
    reads, writes = client.fence(1), client.fence(2)
    assert client.ready(buffer, Deadline(NOW), write=True), "a new buffer is in use"

    client.imported(buffer, reads, write=False)
    assert client.ready(buffer, Deadline(NOW), write=False), "a reader waits for a reader"
    assert not client.ready(buffer, Deadline(NOW), write=True), "a writer waits for no reader"
    client.imported(buffer, writes, write=True)
    assert not client.ready(buffer, Deadline(NOW), write=False), "a reader waits for no writer"
    out = client.exported(buffer, write=False)
    assert client.info(out).drivers == ("sw_sync",)

    client.advance(1)
    assert client.info(out).status == 0, "the reader's fence came out, too"
    client.advance(1)
    assert client.wait(out, Deadline(PATIENCE_S)), "what came out does not signal"
    assert client.info(out).timestamps == client.info(writes).timestamps
    assert client.ready(buffer, Deadline(PATIENCE_S), write=True), "the buffer stays in use"


def test_points_of_a_timeline_are_reached_in_order(dut: Dut) -> None:
    """drm_syncobj.c: a point is reached when its fence and those of all points before it have
    signalled; a wait for one without a fence is EINVAL, or lasts if that was asked for.

    Source: drivers/gpu/drm/drm_syncobj.c drm_syncobj_add_point().
    Runs on: generic.
    """
    client = with_sw_sync(dut)
    line = client.syncobj()
    first, second = client.fence(2), client.fence(1)
    client.insert(line, 1, first)
    client.insert(line, 2, second)
    out = client.extract(line, 2)
    assert client.wait_point(line, 3, Deadline(NOW), unborn=False) == "EINVAL"
    assert client.wait_point(line, 3, Deadline(NOW), unborn=True) == "ETIME"

    client.advance(1)  # the second's fence, and not the first's
    assert client.wait(second, Deadline(PATIENCE_S))
    assert client.reached(line) == 0, "a point is reached before the one before it"
    assert client.wait_point(line, 2, Deadline(NOW), unborn=False) == "ETIME"
    client.advance(1)
    assert client.wait_point(line, 2, Deadline(PATIENCE_S), unborn=False) == ""
    assert client.wait(out, Deadline(PATIENCE_S)), "the point's fence does not signal"
    assert client.reached(line) == 2
    client.reach(line, 3)
    assert client.reached(line) == 3


def test_vgem_ends_a_fence_that_nobody_signals(dut: Dut) -> None:
    """vgem_fence.c: a second fence that conflicts is refused with EBUSY; after 10 s the first ends
    by itself, without an error, and who signals it then is told ETIMEDOUT.

    Source: drivers/gpu/drm/vgem/vgem_fence.c vgem_fence_attach_ioctl().
    Runs on: generic.
    """
    client = with_vgem(dut)
    buffer = client.buffer()
    first = client.attach(buffer, write=True)
    assert first.errname == ""
    seen = client.exported(buffer, write=True)
    assert client.attach(buffer, write=True).errname == "EBUSY"
    assert client.wait(seen, Deadline(PATIENCE_S)), "vgem's fence does not end by itself"

    info = client.info(seen)
    assert (info.status, info.drivers) == (1, ("vgem",))
    lasted = info.timestamps[0] / 1e9 - first.began
    assert lasted >= EXPIRES_S, f"vgem's fence ended after {lasted:.3f} s"
    assert client.signal(first) == "ETIMEDOUT"
    second = client.attach(buffer, write=True)
    assert second.errname == "", f"the buffer is still in use: {second}"
    assert client.signal(second) == ""
    assert client.ready(buffer, Deadline(PATIENCE_S), write=True)
