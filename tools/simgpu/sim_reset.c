// SPDX-License-Identifier: GPL-2.0
/*
 * Recovery (TDR).
 *
 * All of it runs on the ordered workqueue amdgpu-reset-dev, one at a time,
 * and inside drm_sched_job_timedout's fence signalling section. Therefore:
 * no modeset lock, no dma_resv, no allocation, no lock held across
 * drm_sched_stop, no wait for anything but the ring threads (which take only
 * spinlocks) and for run_job and free_job (which do neither). What a fault
 * makes it do wrong is in sim_fault.c.
 */
#include <linux/dma-fence.h>
#include <linux/workqueue.h>

#include <drm/drm_drv.h>
#include <drm/drm_managed.h>

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

/* guilty is NULL when a person asked for the reset. */
static int sim_reset_recover(struct sim_device *sdev, struct sim_job *guilty)
{
	struct device *dev = sdev->drm.dev;
	struct sim_ring *ring;
	bool locked;
	int ret;

	dev_info(dev, "GPU reset begin!\n");
	WRITE_ONCE(sdev->in_reset, true);
	sim_fault_begin(sdev, guilty);

	locked = sim_fault_lock(sdev);
	for_each_ring(ring, sdev)
		drm_sched_stop(&ring->sched, guilty ? &guilty->base : NULL);
	if (locked)
		mutex_unlock(&sdev->faults.own_lock);
	atomic_inc(&sdev->reset_counter);
	sim_fault_stopped(sdev, guilty);

	if (guilty && dma_fence_is_signaled(&guilty->hw->base)) {
		dev_info(dev, "Guilty job already signaled, skipping HW reset\n");
	} else {
		if (guilty)
			atomic_set(&guilty->ctx->guilty, 1);
		sim_coredump_capture(sdev, guilty);
		dev_info(dev, "MODE1 reset\n");
		if (sim_reset_scope() == SIM_SCOPE_DISPLAY)
			sim_restore_clobber(sdev);
		sim_reset_rings(sdev, guilty);
		sim_restore_queue(sdev);
		dev_info(dev, "GPU reset succeeded, trying to resume\n");
	}
	ret = sim_fault_end(sdev);

	for_each_ring(ring, sdev)
		sim_reset_start_sched(&ring->sched);
	WRITE_ONCE(sdev->in_reset, false);
	dev_info(dev, "GPU reset(%d) %s\n", atomic_read(&sdev->reset_counter),
		 ret ? "failed" : "succeeded!");
	if (ret)
		dev_info(dev, "GPU reset end with ret = %d\n", ret);
	return ret;
}

/* No reset, but the job that timed out must go back to where it was. */
static void sim_reset_decline(struct sim_job *job)
{
	struct drm_gpu_scheduler *sched = job->base.sched;

	drm_sched_stop(sched, &job->base);
	sim_reset_start_sched(sched);
}

enum drm_gpu_sched_stat sim_reset_timedout(struct drm_sched_job *base)
{
	struct sim_ring *ring = to_sim_ring(base->sched);
	struct sim_device *sdev = ring->sdev;
	struct sim_job *job = to_sim_job(base);
	struct device *dev = sdev->drm.dev;

	if (READ_ONCE(ring->gone)) {
		sim_reset_decline(job);
		return DRM_GPU_SCHED_STAT_ENODEV;
	}

	dev_err(dev, "ring %s timeout, signaled seq=%u, emitted seq=%u\n",
		ring->name, READ_ONCE(ring->signaled), READ_ONCE(ring->emitted));
	dev_err(dev, "Process information: process %s pid %d thread %s pid %d\n",
		job->group_comm, job->tgid, job->comm, job->pid);

	if (!sim_gpu_recovery)
		sim_reset_decline(job);
	else
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
		sim_ring_cancel(ring, NULL, -ENODEV);
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
