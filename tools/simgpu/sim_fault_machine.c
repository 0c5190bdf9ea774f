// SPDX-License-Identifier: GPL-2.0
/* Faults of the machine: it dies, stands still, drowns its log or runs out of memory. */
#include <linux/delay.h>
#include <linux/irqflags.h>
#include <linux/panic.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "sim.h"

/* Deaf to interrupts, so it counts loops: this CPU may be the one that keeps the time. */
static void sim_fault_lockup(struct sim_device *sdev)
{
	unsigned long flags;
	u32 left = sim_fault(sdev, SIM_FAULT_HARD_LOCKUP) * 100;

	local_irq_save(flags);
	while (left-- && sim_fault(sdev, SIM_FAULT_HARD_LOCKUP))
		mdelay(10);
	local_irq_restore(flags);
}

static void sim_fault_flood(struct sim_device *sdev)
{
	u32 i, count = sim_fault(sdev, SIM_FAULT_LOG_FLOOD);

	for (i = 1; i <= count && sim_fault(sdev, SIM_FAULT_LOG_FLOOD); i++) {
		dev_info(sdev->drm.dev, "line %u of %u\n", i, count);
		cond_resched();
	}
}

void sim_fault_machine(struct sim_device *sdev)
{
	WARN(sim_fault(sdev, SIM_FAULT_WARN), "a fault asked for this\n");
	if (sim_fault(sdev, SIM_FAULT_OOPS))
		WRITE_ONCE(*(u32 *)NULL, 0);
	if (sim_fault(sdev, SIM_FAULT_PANIC))
		panic("a fault asked for this");
	if (sim_fault(sdev, SIM_FAULT_HARD_LOCKUP))
		sim_fault_lockup(sdev);
	if (sim_fault(sdev, SIM_FAULT_LOG_FLOOD))
		sim_fault_flood(sdev);
	if (sim_fault(sdev, SIM_FAULT_LEAK))
		WRITE_ONCE(sdev->faults.leaked,
			   kmalloc((size_t)sim_fault(sdev, SIM_FAULT_LEAK) << 10,
				   GFP_NOWAIT | __GFP_NOWARN));
	wait_event(sdev->faults.wait, !sim_fault(sdev, SIM_FAULT_NEVER_ENDS));
}

/* Whether a recovery failed; it may have just as the fault was switched off. */
bool sim_fault_wedged(struct sim_device *sdev)
{
	return sim_fault(sdev, SIM_FAULT_FAILS) && READ_ONCE(sdev->faults.wedged);
}

/* How recovery ends: 0, or the error that it fails with. */
int sim_fault_end(struct sim_device *sdev)
{
	if (!sim_fault(sdev, SIM_FAULT_FAILS))
		return 0;
	WRITE_ONCE(sdev->faults.wedged, true);
	return -EIO;
}
