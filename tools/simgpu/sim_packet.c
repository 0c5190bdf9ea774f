// SPDX-License-Identifier: GPL-2.0
/*
 * The packet interpreters: PM4 for the gfx and compute rings, SDMA v5 for the
 * others. All operands are read through the GPU address space when they are
 * needed, so what the CPU writes meanwhile counts. A packet that is not
 * understood, or an address that is not mapped, hangs: the interpreter returns
 * an error and the ring stays where it is until a reset.
 */
#include <linux/delay.h>
#include <linux/math64.h>

#include "sim.h"

#define PM4_TYPE(h)	((h) >> 30)
#define PM4_OP(h)	(((h) >> 8) & 0xff)
#define PM4_BODY(h)	((((h) >> 16) & 0x3fff) + 1)
#define PM4_NOP		0x10
#define PM4_WRITE_DATA	0x37
#define PM4_WAIT_REG_MEM 0x3c

#define SDMA_OP(h)	((h) & 0xff)
#define SDMA_SUB_OP(h)	(((h) >> 8) & 0xff)
#define SDMA_EXTRA(h)	((h) >> 16)
#define SDMA_NOP	0
#define SDMA_COPY	1
#define SDMA_WRITE	2
#define SDMA_FENCE	5
#define SDMA_POLL	8
#define SDMA_FILL	11
#define SDMA_BYTES(c)	(((c) & 0x3fffff) + 1)	/* counts are "minus one" from Vega on */
#define SDMA_FOREVER	0xfff

struct sim_exec {
	struct sim_ring *ring;
	struct sim_job *job;
	u64 va;			/* of the next dword of the IB */
	u32 left;		/* dwords */
};

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

static int sim_exec_read(struct sim_exec *ex, u64 va, void *to, u32 len)
{
	u64 bad;

	return sim_vm_read(ex->job->vm, va, to, len, &bad) ? sim_exec_fault(ex, bad) : 0;
}

static int sim_exec_write(struct sim_exec *ex, u64 va, const void *from, u32 len)
{
	u64 bad;

	return sim_vm_write(ex->job->vm, va, from, len, &bad) ? sim_exec_fault(ex, bad) : 0;
}

static int sim_exec_fetch(struct sim_exec *ex, u32 *dw, u32 count)
{
	int ret;

	if (count > ex->left)
		return -EILSEQ;
	ret = sim_exec_read(ex, ex->va, dw, count * 4);
	ex->va += (u64)count * 4;
	ex->left -= count;
	return ret;
}

static int sim_exec_skip(struct sim_exec *ex, u32 count)
{
	if (count > ex->left)
		return -EILSEQ;
	ex->va += (u64)count * 4;
	ex->left -= count;
	return 0;
}

static u64 sim_addr(u32 lo, u32 hi)
{
	return ((u64)hi << 32 | lo) & SIM_VA_MASK;
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

static int sim_exec_poll(struct sim_exec *ex, u64 va, u32 func, u32 ref, u32 mask, u32 retries)
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
		if (sim_ring_halting(ex->ring))
			return -EINTR;
		if (retries != SDMA_FOREVER && !retries--)
			return 0;
		usleep_range_state(100, 500, TASK_IDLE);
	}
}

/* Move IB payload to memory. One address for all when step is 0. */
static int sim_exec_store(struct sim_exec *ex, u64 va, u32 count, u32 step)
{
	u32 n, data;
	int ret;

	if (count > ex->left)
		return -EILSEQ;
	if (va & 3)
		return -EILSEQ;
	for (n = 0; n < count; n++) {
		if (sim_ring_halting(ex->ring))
			return -EINTR;
		ret = sim_exec_fetch(ex, &data, 1);
		if (!ret)
			ret = sim_exec_write(ex, va + (u64)n * step, &data, sizeof(data));
		if (ret)
			return ret;
	}
	return 0;
}

static int sim_pm4_write_data(struct sim_exec *ex, u32 body)
{
	u32 dw[3], dst;
	int ret;

	if (body < 4)
		return -EILSEQ;
	ret = sim_exec_fetch(ex, dw, 3);
	if (ret)
		return ret;
	/* 5 memory, 2 L2, 1 memory by GRBM; 0 is registers, which we have not */
	dst = (dw[0] >> 8) & 0xf;
	if (dst != 5 && dst != 2 && dst != 1)
		return -EILSEQ;
	return sim_exec_store(ex, sim_addr(dw[1], dw[2]), body - 3, dw[0] & BIT(16) ? 0 : 4);
}

static int sim_pm4_wait(struct sim_exec *ex, u32 body)
{
	u32 dw[6];
	int ret;

	if (body != 6)
		return -EILSEQ;
	ret = sim_exec_fetch(ex, dw, 6);
	if (ret)
		return ret;
	/* memory space, plain wait */
	if (((dw[0] >> 4) & 3) != 1 || ((dw[0] >> 6) & 3) != 0)
		return -EILSEQ;
	return sim_exec_poll(ex, sim_addr(dw[1] & ~3u, dw[2]), dw[0] & 7, dw[3], dw[4],
			     SDMA_FOREVER);
}

static int sim_pm4_packet(struct sim_exec *ex)
{
	u32 header;
	int ret;

	ret = sim_exec_fetch(ex, &header, 1);
	if (ret)
		return ret;
	if (PM4_TYPE(header) == 2)
		return 0;
	if (PM4_TYPE(header) != 3)
		return -EILSEQ;

	switch (PM4_OP(header)) {
	case PM4_NOP:
		/* a NOP with the largest count is the header alone */
		return PM4_BODY(header) == 0x4000 ? 0 : sim_exec_skip(ex, PM4_BODY(header));
	case PM4_WRITE_DATA:
		return sim_pm4_write_data(ex, PM4_BODY(header));
	case PM4_WAIT_REG_MEM:
		return sim_pm4_wait(ex, PM4_BODY(header));
	default:
		return -EILSEQ;
	}
}

static int sim_sdma_copy(struct sim_exec *ex, u32 header)
{
	u32 dw[6], len, n;
	u64 src, dst;
	int ret;

	if (SDMA_SUB_OP(header) || SDMA_EXTRA(header))
		return -EILSEQ;
	ret = sim_exec_fetch(ex, dw, 6);
	if (ret)
		return ret;
	src = sim_addr(dw[2], dw[3]);
	dst = sim_addr(dw[4], dw[5]);
	for (len = SDMA_BYTES(dw[0]); len; len -= n, src += n, dst += n) {
		if (sim_ring_halting(ex->ring))
			return -EINTR;
		n = min_t(u32, len, SIM_BOUNCE);
		ret = sim_exec_read(ex, src, ex->ring->bounce, n);
		if (!ret)
			ret = sim_exec_write(ex, dst, ex->ring->bounce, n);
		if (ret)
			return ret;
		cond_resched();
	}
	return 0;
}

static int sim_sdma_fill(struct sim_exec *ex, u32 header)
{
	u32 dw[4], len, n;
	u64 dst;
	int ret;

	/* fill by bytes (0) or by dwords (2), nothing else */
	if (SDMA_SUB_OP(header) || (SDMA_EXTRA(header) & 0x7fff))
		return -EILSEQ;
	ret = sim_exec_fetch(ex, dw, 4);
	if (ret)
		return ret;
	dst = sim_addr(dw[0], dw[1]);
	len = SDMA_BYTES(dw[3]);
	if (header >> 30 == 2) {
		if (dst & 3)
			return -EILSEQ;
		len = ALIGN(len, 4);
		memset32((u32 *)ex->ring->bounce, dw[2], SIM_BOUNCE / 4);
	} else {
		memset(ex->ring->bounce, dw[2] & 0xff, SIM_BOUNCE);
	}
	for (; len; len -= n, dst += n) {
		if (sim_ring_halting(ex->ring))
			return -EINTR;
		n = min_t(u32, len, SIM_BOUNCE);
		ret = sim_exec_write(ex, dst, ex->ring->bounce, n);
		if (ret)
			return ret;
		cond_resched();
	}
	return 0;
}

static int sim_sdma_poll(struct sim_exec *ex, u32 header)
{
	u32 dw[5];
	int ret;

	/* memory, and no HDP flush */
	if (SDMA_SUB_OP(header) || !(header & BIT(31)) || (header & BIT(26)))
		return -EILSEQ;
	ret = sim_exec_fetch(ex, dw, 5);
	if (ret)
		return ret;
	return sim_exec_poll(ex, sim_addr(dw[0], dw[1]), (header >> 28) & 7, dw[2], dw[3],
			     (dw[4] >> 16) & 0xfff);
}

static int sim_sdma_packet(struct sim_exec *ex)
{
	u32 header, dw[3];
	int ret;

	ret = sim_exec_fetch(ex, &header, 1);
	if (ret)
		return ret;

	switch (SDMA_OP(header)) {
	case SDMA_NOP:
		return SDMA_SUB_OP(header) ? -EILSEQ :
			sim_exec_skip(ex, SDMA_EXTRA(header) & 0x3fff);
	case SDMA_COPY:
		return sim_sdma_copy(ex, header);
	case SDMA_WRITE:
		if (SDMA_SUB_OP(header))
			return -EILSEQ;
		ret = sim_exec_fetch(ex, dw, 3);
		return ret ?: sim_exec_store(ex, sim_addr(dw[0], dw[1]),
					     (dw[2] & 0xfffff) + 1, 4);
	case SDMA_FENCE:
		if (SDMA_SUB_OP(header))
			return -EILSEQ;
		ret = sim_exec_fetch(ex, dw, 3);
		if (!ret && dw[0] & 3)
			return -EILSEQ;
		return ret ?: sim_exec_write(ex, sim_addr(dw[0], dw[1]), &dw[2], 4);
	case SDMA_POLL:
		return sim_sdma_poll(ex, header);
	case SDMA_FILL:
		return sim_sdma_fill(ex, header);
	default:
		return -EILSEQ;
	}
}

/*
 * Execute an IB. 0 when done, -EINTR when the ring is being halted; anything
 * else is a hang: -EFAULT at an address, -EILSEQ at a packet.
 */
int sim_packet_run(struct sim_ring *ring, struct sim_job *job, const struct sim_ib *ib)
{
	struct sim_exec ex = {
		.ring = ring,
		.job = job,
		.va = ib->va,
		.left = ib->dwords,
	};
	u32 since = 0;
	int ret = 0;

	while (ex.left && !ret) {
		if (sim_ring_halting(ring))
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
