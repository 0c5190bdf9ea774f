// SPDX-License-Identifier: GPL-2.0
/*
 * Recovery (TDR), in amdgpu's order: kill the job (soft), reset its ring, reset
 * all of the chip, the display with it or not. sim_reset_scope says where it
 * begins; what that cannot help goes one further.
 *
 * All of it runs on the ordered workqueue amdgpu-reset-dev, one at a time,
 * and inside drm_sched_job_timedout's fence signalling section. Therefore:
 * no modeset lock, no dma_resv, no allocation, no lock held across
 * drm_sched_stop, no wait for anything but the ring threads (which take only
 * spinlocks) and for run_job and free_job (which do neither). What a fault
 * makes it do wrong is in sim_fault.c, what a remedy does so in sim_remedy.c.
 */
#include <linux/dma-fence.h>
#include <linux/workqueue.h>

#include <drm/drm_drv.h>
#include <drm/drm_managed.h>
#include <drm/drm_modeset_lock.h>

#include "sim.h"

#define for_each_ring(ring, sdev) \
	for (ring = (sdev)->core->ring; ring < (sdev)->core->ring + SIM_NUM_RINGS; ring++)

/*
 * drm_sched_stop() took the parent of each job it left on the list. Give it
 * back, so that drm_sched_start() ends the job with the error of its hw fence
 * or waits for it again.
 */
static void sim_reset_start_sched(struct drm_gpu_scheduler *sched)
{
	struct drm_sched_job *base;

	list_for_each_entry(base, &sched->pending_list, list) {
		struct sim_job *job = to_sim_job(base);

		if (!base->s_fence->parent && job->hw->live)
			base->s_fence->parent = dma_fence_get(&job->hw->base);
	}
	drm_sched_start(sched);
}

static void sim_reset_rings(struct sim_device *sdev, struct sim_job *guilty)
{
	struct sim_ring *ring;

	for_each_ring(ring, sdev)
		sim_ring_halt(ring);
	for_each_ring(ring, sdev)
		sim_ring_cancel(ring, guilty, -ECANCELED);
	for_each_ring(ring, sdev)
		sim_ring_resume(ring);
}

/* Take a job back that has not been reset, or that has ended and will be freed. */
static void sim_reset_put_back(struct sim_job *job)
{
	struct drm_gpu_scheduler *sched = job->base.sched;

	drm_sched_stop(sched, &job->base);
	sim_reset_start_sched(sched);
}

/*
 * Kill the job and nothing else. As in amdgpu the gfx and compute rings can do
 * that, no context is guilty of it, and userspace is sent no uevent.
 */
static bool sim_reset_soft(struct sim_ring *ring, struct sim_job *job)
{
	struct sim_device *sdev = ring->sdev;

	if (sim_reset_scope() > SIM_SCOPE_SOFT || sim_debug_mask & SIM_DEBUG_NO_SOFT_RECOVERY ||
	    ring->ip == AMDGPU_HW_IP_DMA || !job->hw->live)
		return false;

	sim_fault_begin(sdev, job);
	sim_coredump_capture(sdev, job);
	sim_ring_kill(ring, job);
	atomic_inc(&sdev->reset_counter);
	sim_reset_put_back(job);
	dev_err(sdev->drm.dev, "ring %s timeout, but soft recovered\n", ring->name);
	sim_restore_queue(sdev, SIM_TALE_NONE, false);
	return true;
}

/*
 * Reset one ring; the others go on. What was on it ends as this kernel's amdgpu
 * ends it (amdgpu_fence_driver_force_completion() in 6.12): the guilty fence with
 * -ETIME, those behind it with -ECANCELED. Kernels from 6.17 on run those again,
 * on some rings; here the fences' errors should be what amdgpu of the same source
 * gives. No context becomes guilty: 6.12 counts that in a full reset alone. The
 * log lines are those of 6.13 and later, which the harness has to know.
 */
static bool sim_reset_ring(struct sim_ring *ring, struct sim_job *guilty)
{
	struct sim_device *sdev = ring->sdev;
	struct device *dev = sdev->drm.dev;
	bool locked;

	if (sim_reset_scope() > SIM_SCOPE_RING)
		return false;

	dev_err(dev, "Starting %s ring reset\n", ring->name);
	if (sim_fault(sdev, SIM_FAULT_FAILS)) {
		dev_err(dev, "Ring %s reset failed\n", ring->name);
		return false;
	}
	sim_fault_begin(sdev, guilty);
	locked = sim_fault_lock(sdev);
	drm_sched_stop(&ring->sched, &guilty->base);
	if (locked)
		mutex_unlock(&sdev->faults.own_lock);
	atomic_inc(&sdev->reset_counter);
	sim_fault_stopped(sdev, guilty);

	sim_coredump_capture(sdev, guilty);
	sim_ring_halt(ring);
	sim_ring_cancel(ring, guilty, -ECANCELED);
	sim_ring_resume(ring);
	sim_reset_start_sched(&ring->sched);
	dev_err(dev, "Ring %s reset succeeded\n", ring->name);
	sim_restore_queue(sdev, SIM_TALE_RECOVERED, false);
	return true;
}

/* guilty is NULL when a person asked for the reset. */
static int sim_reset_recover(struct sim_device *sdev, struct sim_job *guilty)
{
	bool display = sim_reset_scope() == SIM_SCOPE_DISPLAY;
	u32 writes = 0;
	enum sim_remedy remedy = display ? sim_remedy(&writes) : SIM_REMEDY_NONE;
	enum sim_tale tale = SIM_TALE_NONE;
	struct drm_modeset_acquire_ctx ctx;
	struct device *dev = sdev->drm.dev;
	struct sim_ring *ring;
	bool locked;
	int ret;

	dev_info(dev, "GPU reset begin!\n");
	WRITE_ONCE(sdev->in_reset, true);
	sim_fault_begin(sdev, guilty);
	if (remedy == SIM_REMEDY_RESTART)
		sim_remedy_lock(sdev, &ctx);

	locked = sim_fault_lock(sdev);
	for_each_ring(ring, sdev)
		drm_sched_stop(&ring->sched, guilty ? &guilty->base : NULL);
	if (locked)
		mutex_unlock(&sdev->faults.own_lock);
	atomic_inc(&sdev->reset_counter);
	sim_fault_stopped(sdev, guilty);

	/* a job that run_job refused has no hw fence */
	if (guilty && (!guilty->hw->live || dma_fence_is_signaled(&guilty->hw->base))) {
		dev_info(dev, "Guilty job already signaled, skipping HW reset\n");
	} else {
		if (guilty)
			atomic_set(&guilty->ctx->guilty, 1);
		sim_coredump_capture(sdev, guilty);
		dev_info(dev, "MODE1 reset\n");
		if (display)
			sim_restore_clobber(sdev);
		if (remedy == SIM_REMEDY_FORCE)
			sim_remedy_wedge(sdev, writes);
		sim_reset_rings(sdev, guilty);
		if (remedy == SIM_REMEDY_RESTART)
			sim_restore_now(sdev);
		tale = remedy == SIM_REMEDY_FORCE ? SIM_TALE_WEDGED : SIM_TALE_RECOVERED;
		dev_info(dev, "GPU reset succeeded, trying to resume\n");
	}
	ret = sim_fault_end(sdev);
	if (tale == SIM_TALE_WEDGED)
		ret = -EIO;

	for_each_ring(ring, sdev)
		sim_reset_start_sched(&ring->sched);
	if (remedy == SIM_REMEDY_RESTART)
		sim_remedy_unlock(sdev, &ctx);
	WRITE_ONCE(sdev->in_reset, false);
	dev_info(dev, "GPU reset(%d) %s\n", atomic_read(&sdev->reset_counter),
		 ret ? "failed" : "succeeded!");
	if (ret)
		dev_info(dev, "GPU reset end with ret = %d\n", ret);
	if (tale != SIM_TALE_NONE)
		sim_restore_queue(sdev, tale, display);
	return ret;
}

enum drm_gpu_sched_stat sim_reset_timedout(struct drm_sched_job *base)
{
	struct sim_ring *ring = to_sim_ring(base->sched);
	struct sim_device *sdev = ring->sdev;
	struct sim_job *job = to_sim_job(base);
	struct device *dev = sdev->drm.dev;

	if (READ_ONCE(ring->gone)) {
		sim_reset_put_back(job);
		return DRM_GPU_SCHED_STAT_ENODEV;
	}
	if (sim_gpu_recovery && sim_reset_soft(ring, job))
		return DRM_GPU_SCHED_STAT_NOMINAL;

	dev_err(dev, "ring %s timeout, signaled seq=%u, emitted seq=%u\n",
		ring->name, READ_ONCE(ring->signaled), READ_ONCE(ring->emitted));
	dev_err(dev, "Process information: process %s pid %d thread %s pid %d\n",
		job->group_comm, job->tgid, job->comm, job->pid);

	if (!sim_gpu_recovery)
		sim_reset_put_back(job);
	else if (!sim_reset_ring(ring, job))
		sim_reset_recover(sdev, job);
	if (sim_gpu_recovery && sim_fault(sdev, SIM_FAULT_TWICE))
		sim_reset_recover(sdev, NULL);
	return DRM_GPU_SCHED_STAT_NOMINAL;
}

/* A person's request, by debugfs. Not inside the scheduler's section. */
static void sim_reset_worker(struct work_struct *work)
{
	struct sim_device *sdev = container_of(work, struct sim_device, reset_work);

	if (READ_ONCE(sdev->core->ring[0].gone))
		sdev->reset_result = -ENODEV;
	else
		sdev->reset_result = sim_reset_recover(sdev, NULL);
}

/* Removal takes its turn among the resets. The rings stay halted. */
static void sim_unplug_worker(struct work_struct *work)
{
	struct sim_device *sdev = container_of(work, struct sim_device, unplug_work);
	struct sim_ring *ring;

	for_each_ring(ring, sdev) {
		if (ring->thread)
			sim_ring_halt(ring);
		spin_lock(&ring->lock);
		ring->gone = true;
		spin_unlock(&ring->lock);
		/* as amdgpu_fence_driver_hw_fini() ends what is left on an unplugged device */
		sim_ring_cancel(ring, NULL, -ECANCELED);
	}
}

/* Reset now and wait for the result. Takes no part in reset itself. */
int sim_reset_request(struct sim_device *sdev)
{
	queue_work(sdev->reset_wq, &sdev->reset_work);
	flush_work(&sdev->reset_work);
	return sdev->reset_result;
}

static void sim_reset_release(struct drm_device *drm, void *data)
{
	destroy_workqueue(data);
}

int sim_reset_create(struct sim_device *sdev)
{
	sdev->reset_wq = alloc_ordered_workqueue("amdgpu-reset-dev", 0);
	if (!sdev->reset_wq)
		return -ENOMEM;
	INIT_WORK(&sdev->reset_work, sim_reset_worker);
	INIT_WORK(&sdev->unplug_work, sim_unplug_worker);
	return drmm_add_action_or_reset(&sdev->drm, sim_reset_release, sdev->reset_wq);
}
