/* SPDX-License-Identifier: GPL-2.0 */
/*
 * An IB being executed. The helpers return 0, -EINTR when the ring is being
 * halted, -EFAULT at an address that is not mapped, -EILSEQ at nonsense; all
 * but the first two are hangs.
 */
#ifndef __SIM_EXEC_H__
#define __SIM_EXEC_H__

#include "sim.h"

#define SIM_FOREVER	0xfff	/* SDMA's retry count for it */

/*
 * What takes long on a chip, at about a fiftieth of its pace: slower than
 * emulation, so that it takes as long on a busy host.
 */
#define SIM_CONFIRM_NS	50000	/* a write that is waited for */
#define SIM_KIB_NS	10000	/* a KiB copied or filled */

struct sim_exec {
	struct sim_ring *ring;
	struct sim_job *job;
	u64 va;			/* of the next dword of the IB */
	u32 left;		/* dwords */
	u64 since;		/* ns: when what is executed now began, about */
	u64 busy;		/* ns: until when the chip has work */
};

static inline u64 sim_addr(u32 lo, u32 hi)
{
	return ((u64)hi << 32 | lo) & SIM_VA_MASK;
}

int sim_exec_read(struct sim_exec *ex, u64 va, void *to, u32 len);
int sim_exec_write(struct sim_exec *ex, u64 va, const void *from, u32 len);
int sim_exec_fetch(struct sim_exec *ex, u32 *dw, u32 count);
int sim_exec_skip(struct sim_exec *ex, u32 count);
int sim_exec_store(struct sim_exec *ex, u64 va, u32 count, u32 step);
int sim_exec_spend(struct sim_exec *ex, u64 ns);
int sim_exec_poll(struct sim_exec *ex, u64 va, u32 func, u32 ref, u32 mask, u32 retries);

int sim_pm4_packet(struct sim_exec *ex);	/* sim_pm4.c */
int sim_sdma_packet(struct sim_exec *ex);	/* sim_sdma.c */

#endif
