// SPDX-License-Identifier: GPL-2.0
/*
 * Sleep, in amdgpu's order: the display goes dark, then what is on the rings ends,
 * by itself or by recovery, which goes on meanwhile. Memory survives. The waits
 * are uninterruptible: tasks are frozen by then.
 */
#include <linux/dma-fence.h>
#include <linux/pm.h>

#include <drm/drm_modeset_helper.h>

#include "sim.h"

/* As amdgpu_fence_driver_hw_fini() waits for the last fence that was emitted. */
static void sim_pm_wait_empty(struct sim_ring *ring)
{
	struct dma_fence *last = NULL;

	spin_lock(&ring->lock);
	if (!list_empty(&ring->jobs)) {
		struct sim_job *job = list_last_entry(&ring->jobs, struct sim_job, node);

		last = dma_fence_get(&job->hw->base);
	}
	spin_unlock(&ring->lock);

	if (last)
		dma_fence_wait(last, false);
	dma_fence_put(last);
}

static int sim_pm_suspend(struct device *dev)
{
	struct sim_device *sdev = dev_get_drvdata(dev);
	struct sim_ring *ring;
	int ret;

	ret = drm_mode_config_helper_suspend(&sdev->drm);
	if (ret)
		return ret;
	for (ring = sdev->core->ring; ring < sdev->core->ring + SIM_NUM_RINGS; ring++)
		sim_pm_wait_empty(ring);
	return 0;
}

static int sim_pm_resume(struct device *dev)
{
	struct sim_device *sdev = dev_get_drvdata(dev);

	return drm_mode_config_helper_resume(&sdev->drm);
}

const struct dev_pm_ops sim_pm_ops = {
	SYSTEM_SLEEP_PM_OPS(sim_pm_suspend, sim_pm_resume)
};
