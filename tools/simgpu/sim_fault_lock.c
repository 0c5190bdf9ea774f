// SPDX-License-Identifier: GPL-2.0
/* Faults of locking: what recovery must not take, allocate or wait for. */
#include <linux/console.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include <drm/drm_modeset_lock.h>

#include "sim.h"

static void sim_fault_modeset_lock(struct drm_device *drm, struct drm_modeset_acquire_ctx *ctx)
{
	drm_modeset_acquire_init(ctx, 0);
	while (drm_modeset_lock_all_ctx(drm, ctx) == -EDEADLK)
		drm_modeset_backoff(ctx);
}

static void sim_fault_modeset_unlock(struct drm_modeset_acquire_ctx *ctx)
{
	drm_modeset_drop_locks(ctx);
	drm_modeset_acquire_fini(ctx);
}

static void sim_fault_modeset(struct drm_device *drm)
{
	struct drm_modeset_acquire_ctx ctx;

	sim_fault_modeset_lock(drm, &ctx);
	sim_fault_modeset_unlock(&ctx);
}

/* As a commit that waits under its locks for the job that draws its picture. */
void sim_fault_hold(struct work_struct *work)
{
	struct sim_faults *faults = container_of(work, struct sim_faults, holder);
	struct sim_device *sdev = container_of(faults, struct sim_device, faults);
	struct dma_fence *fence = xchg(&faults->awaited, NULL);
	struct drm_modeset_acquire_ctx ctx;

	if (!fence)
		return;
	sim_fault_modeset_lock(&sdev->drm, &ctx);
	WRITE_ONCE(faults->holding, true);
	wake_up_all(&faults->wait);
	/* nobody but recovery ends the job, so its fence need not wake us */
	wait_event(faults->wait, dma_fence_is_signaled(fence) ||
				 !sim_fault(sdev, SIM_FAULT_DEADLOCK));
	sim_fault_modeset_unlock(&ctx);
	dma_fence_put(fence);
	WRITE_ONCE(faults->holding, false);
	wake_up_all(&faults->wait);
}

static void sim_fault_deadlock(struct sim_device *sdev, struct sim_job *guilty)
{
	struct sim_faults *faults = &sdev->faults;

	dma_fence_put(xchg(&faults->awaited, dma_fence_get(&guilty->hw->base)));
	queue_work(system_unbound_wq, &faults->holder);
	wait_event(faults->wait, READ_ONCE(faults->holding) ||
				 !sim_fault(sdev, SIM_FAULT_DEADLOCK));
	sim_fault_modeset(&sdev->drm);
	wait_event(faults->wait, !READ_ONCE(faults->holding));
}

static void sim_fault_resv(struct dma_resv *resv)
{
	struct ww_acquire_ctx ctx;

	ww_acquire_init(&ctx, &reservation_ww_class);
	if (!dma_resv_lock(resv, &ctx))
		dma_resv_unlock(resv);
	ww_acquire_fini(&ctx);
}

void sim_fault_locking(struct sim_device *sdev, struct sim_job *guilty)
{
	if (sim_fault(sdev, SIM_FAULT_CONSOLE_LOCK)) {
		console_lock();
		console_unlock();
	}
	if (sim_fault(sdev, SIM_FAULT_MODESET_LOCKS))
		sim_fault_modeset(&sdev->drm);
	if (sim_fault(sdev, SIM_FAULT_DMA_RESV))
		sim_fault_resv(&sdev->faults.resv);
	if (sim_fault(sdev, SIM_FAULT_GFP_KERNEL))
		kfree(kmalloc(64, GFP_KERNEL));
	/* as drivers do before they move what userspace has mapped */
	if (sim_fault(sdev, SIM_FAULT_MMU_NOTIFIER))
		unmap_mapping_range(sdev->drm.anon_inode->i_mapping, 0, 0, 1);
	if (sim_fault(sdev, SIM_FAULT_DEADLOCK) && guilty)
		sim_fault_deadlock(sdev, guilty);
	if (sim_fault(sdev, SIM_FAULT_FLUSH_OWN_WORK) && guilty)
		flush_delayed_work(&guilty->base.sched->work_tdr);
}

/* Whether own_lock is held from here on. */
bool sim_fault_lock(struct sim_device *sdev)
{
	if (!sim_fault(sdev, SIM_FAULT_OWN_LOCK))
		return false;
	mutex_lock(&sdev->faults.own_lock);
	return true;
}
