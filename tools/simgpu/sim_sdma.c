// SPDX-License-Identifier: GPL-2.0
/* SDMA v5, the packets of the copy engines. */
#include "sim_exec.h"

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
		if (sim_ring_dropping(ex->ring, ex->job))
			return -EINTR;
		n = min_t(u32, len, SIM_BOUNCE);
		ret = sim_exec_read(ex, src, ex->ring->bounce, n);
		if (!ret)
			ret = sim_exec_write(ex, dst, ex->ring->bounce, n);
		if (!ret)
			ret = sim_exec_spend(ex, (u64)n * SIM_KIB_NS / SZ_1K);
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
		if (sim_ring_dropping(ex->ring, ex->job))
			return -EINTR;
		n = min_t(u32, len, SIM_BOUNCE);
		ret = sim_exec_write(ex, dst, ex->ring->bounce, n);
		if (!ret)
			ret = sim_exec_spend(ex, (u64)n * SIM_KIB_NS / SZ_1K);
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

int sim_sdma_packet(struct sim_exec *ex)
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
