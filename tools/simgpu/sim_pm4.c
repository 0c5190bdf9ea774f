// SPDX-License-Identifier: GPL-2.0
/* PM4, the packets of the gfx and compute rings. */
#include "sim_exec.h"

#define PM4_TYPE(h)	((h) >> 30)
#define PM4_OP(h)	(((h) >> 8) & 0xff)
#define PM4_BODY(h)	((((h) >> 16) & 0x3fff) + 1)
#define PM4_NOP		0x10
#define PM4_WRITE_DATA	0x37
#define PM4_CONFIRM	BIT(20)	/* of WRITE_DATA: go on when it is written */
#define PM4_WAIT_REG_MEM 0x3c

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
	ret = sim_exec_store(ex, sim_addr(dw[1], dw[2]), body - 3, dw[0] & BIT(16) ? 0 : 4);
	if (ret || !(dw[0] & PM4_CONFIRM))
		return ret;
	return sim_exec_spend(ex, SIM_CONFIRM_NS);
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
			     SIM_FOREVER);
}

int sim_pm4_packet(struct sim_exec *ex)
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
