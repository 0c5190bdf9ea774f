// SPDX-License-Identifier: GPL-2.0
/* Faults of waits: what userspace is told, and when it is woken. */
#include <linux/dma-fence.h>
#include <linux/mutex.h>

#include "sim.h"

/* As dma_fence_wait_timeout(), interruptibly. */
long sim_fault_wait(struct sim_device *sdev, struct dma_fence *fence, long timeout)
{
	int resets = atomic_read(&sdev->reset_counter);
	long ret;

	if (sim_fault(sdev, SIM_FAULT_OWN_LOCK)) {
		ret = mutex_lock_interruptible(&sdev->faults.own_lock);
		if (ret)
			return ret;
		ret = dma_fence_wait_timeout(fence, true, timeout);
		mutex_unlock(&sdev->faults.own_lock);
		return ret;
	}

	ret = dma_fence_wait_timeout(fence, true, timeout);
	if (ret <= 0 || atomic_read(&sdev->reset_counter) == resets)
		return ret;
	if (sim_fault(sdev, SIM_FAULT_EINTR))
		return -EINTR;
	if (sim_fault(sdev, SIM_FAULT_ERRNO_512))
		return -ERESTARTSYS;
	if (sim_fault(sdev, SIM_FAULT_NOT_WOKEN))
		return wait_event_interruptible_timeout(sdev->faults.wait,
				!sim_fault(sdev, SIM_FAULT_NOT_WOKEN), ret);
	return ret;
}
