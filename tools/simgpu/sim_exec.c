// SPDX-License-Identifier: GPL-2.0
/*
 * Execution of an IB, packet by packet. All operands are read through the GPU
 * address space when they are needed, so what the CPU writes meanwhile counts.
 * A packet that is not understood, or an address that is not mapped, hangs:
 * the ring stays where it is until a reset.
 */
#include <linux/delay.h>
#include <linux/ktime.h>
#include <linux/math64.h>

#include "sim_exec.h"

/* Once per job, as the fault interrupt of amdgpu's GMC v10 prints it. */
static int sim_exec_fault(struct sim_exec *ex, u64 va)
{
	struct device *dev = ex->ring->sdev->drm.dev;

	if (!ex->job->faulted) {
		dev_err(dev, "[gfxhub] page fault (src_id:0 ring:%u vmid:1 pasid:%d)\n",
			ex->ring->index, ex->job->tgid);
		dev_err(dev, "  in page starting at address 0x%016llx from client 0x1b (UTCL2)\n",
			va & PAGE_MASK);
	}
	ex->job->faulted = true;
	return -EFAULT;
}

int sim_exec_read(struct sim_exec *ex, u64 va, void *to, u32 len)
{
	u64 bad;

	return sim_vm_read(ex->job->vm, va, to, len, &bad) ? sim_exec_fault(ex, bad) : 0;
}

int sim_exec_write(struct sim_exec *ex, u64 va, const void *from, u32 len)
{
	u64 bad;

	return sim_vm_write(ex->job->vm, va, from, len, &bad) ? sim_exec_fault(ex, bad) : 0;
}

int sim_exec_fetch(struct sim_exec *ex, u32 *dw, u32 count)
{
	int ret;

	if (count > ex->left)
		return -EILSEQ;
	ret = sim_exec_read(ex, ex->va, dw, count * 4);
	ex->va += (u64)count * 4;
	ex->left -= count;
	return ret;
}

int sim_exec_skip(struct sim_exec *ex, u32 count)
{
	if (count > ex->left)
		return -EILSEQ;
	ex->va += (u64)count * 4;
	ex->left -= count;
	return 0;
}

/* The chip takes ns for what was just done: sleep for what is left of that, once it matters. */
int sim_exec_spend(struct sim_exec *ex, u64 ns)
{
	u64 now = ktime_get_ns();
	unsigned long us;

	ex->busy = max(ex->busy, ex->since) + ns;
	ex->since = now;
	if (ex->busy < now + NSEC_PER_MSEC)
		return 0;
	if (sim_ring_dropping(ex->ring, ex->job))
		return -EINTR;
	us = div_u64(ex->busy - now, NSEC_PER_USEC);
	usleep_range_state(us, us + 500, TASK_IDLE);
	return 0;
}

/* The functions are numbered alike in both engines; 0 is always. */
static bool sim_compare(u32 func, u32 value, u32 ref)
{
	switch (func) {
	case 0:
		return true;
	case 1:
		return value < ref;
	case 2:
		return value <= ref;
	case 3:
		return value == ref;
	case 4:
		return value != ref;
	case 5:
		return value >= ref;
	default:
		return value > ref;
	}
}

int sim_exec_poll(struct sim_exec *ex, u64 va, u32 func, u32 ref, u32 mask, u32 retries)
{
	u32 value;
	int ret;

	if (func > 6 || va & 3)
		return -EILSEQ;
	for (;;) {
		ret = sim_exec_read(ex, va, &value, sizeof(value));
		if (ret)
			return ret;
		if (sim_compare(func, value & mask, ref))
			return 0;
		if (sim_ring_dropping(ex->ring, ex->job))
			return -EINTR;
		if (retries != SIM_FOREVER && !retries--)
			return 0;
		usleep_range_state(100, 500, TASK_IDLE);
	}
}

/* Move IB payload to memory. One address for all when step is 0. */
int sim_exec_store(struct sim_exec *ex, u64 va, u32 count, u32 step)
{
	u32 n, data;
	int ret;

	if (count > ex->left)
		return -EILSEQ;
	if (va & 3)
		return -EILSEQ;
	for (n = 0; n < count; n++) {
		if (sim_ring_dropping(ex->ring, ex->job))
			return -EINTR;
		ret = sim_exec_fetch(ex, &data, 1);
		if (!ret)
			ret = sim_exec_write(ex, va + (u64)n * step, &data, sizeof(data));
		if (ret)
			return ret;
	}
	return 0;
}

/*
 * Execute an IB. 0 when done, -EINTR when the job is being dropped; anything
 * else is a hang: -EFAULT at an address, -EILSEQ at a packet.
 */
int sim_exec_run(struct sim_ring *ring, struct sim_job *job, const struct sim_ib *ib)
{
	struct sim_exec ex = {
		.ring = ring,
		.job = job,
		.va = ib->va,
		.left = ib->dwords,
		.since = ktime_get_ns(),
	};
	u32 since = 0;
	int ret = 0;

	while (ex.left && !ret) {
		if (sim_ring_dropping(ring, job))
			return -EINTR;
		if (ring->ip == AMDGPU_HW_IP_DMA)
			ret = sim_sdma_packet(&ex);
		else
			ret = sim_pm4_packet(&ex);
		if (!(++since % 256))
			cond_resched();
	}
	return ret;
}
