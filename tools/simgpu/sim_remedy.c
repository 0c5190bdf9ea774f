// SPDX-License-Identifier: GPL-2.0
/*
 * Two remedies for a deadlock of resets that take the modeset locks: a commit may
 * hold them and wait for a fence that only the reset will signal.
 *
 * restart: whoever sleeps in a wait of ours is woken, drops his locks, and makes
 * his system call again; userspace does not notice. Waits that cannot be
 * interrupted, and those of the helpers, know nothing of it.
 * force: all fences end, so that nobody is left to wait for, and the device is
 * wedged.
 *
 * Neither is how a driver should be today: recovery is healthy without the locks
 * (see sim_restore.c), and lockdep is right to report restart, whose locks are
 * taken while fences are still to be signaled.
 */
#include <linux/dma-fence.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include <drm/drm_modeset_lock.h>

#include "sim.h"

struct sim_waiter {
	struct dma_fence_cb cb;
	struct sim_remedies *remedies;
	bool added;
};

static void sim_waiter_wake(struct dma_fence *fence, struct dma_fence_cb *cb)
{
	wake_up_all(&container_of(cb, struct sim_waiter, cb)->remedies->wait);
}

static bool sim_waiter_done(struct dma_fence **fence, u32 count, u32 *first)
{
	for (*first = 0; *first < count; ++*first)
		if (dma_fence_is_signaled(fence[*first]))
			return true;
	*first = ~0u;
	return false;
}

/* Of who holds modeset locks while a reset wants them, of others when it begins. */
static bool sim_remedy_asks(struct sim_remedies *remedies, int restarts, bool locks)
{
	return locks ? READ_ONCE(remedies->locking) :
		       atomic_read(&remedies->restarts) != restarts;
}

/* Wait for one of the fences, or until a reset asks for a restart. */
static long sim_remedy_sleep(struct sim_device *sdev, struct dma_fence **fence, u32 count,
			     long timeout, u32 *first, bool locks)
{
	struct sim_remedies *remedies = &sdev->remedies;
	int restarts = atomic_read(&remedies->restarts);
	struct sim_waiter *waiter;
	long ret;
	u32 i;

	/* what waits for a fence must look so to lockdep too */
	*first = 0;
	ret = dma_fence_wait_timeout(fence[0], true, 0);
	if (ret)
		return ret;

	waiter = kcalloc(count, sizeof(*waiter), GFP_KERNEL);
	if (!waiter)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		waiter[i].remedies = remedies;
		waiter[i].added = !dma_fence_add_callback(fence[i], &waiter[i].cb,
							  sim_waiter_wake);
	}
	ret = wait_event_interruptible_timeout(remedies->wait,
					       sim_waiter_done(fence, count, first) ||
					       sim_remedy_asks(remedies, restarts, locks),
					       timeout);
	if (ret > 0 && *first == ~0u)
		ret = restart_syscall();
	for (i = 0; i < count; i++)
		if (waiter[i].added)
			dma_fence_remove_callback(fence[i], &waiter[i].cb);
	kfree(waiter);
	return ret;
}

/* As dma_fence_wait_any_timeout(), interruptibly. */
long sim_remedy_wait_any(struct sim_device *sdev, struct dma_fence **fence, u32 count,
			 long timeout, u32 *first)
{
	if (sim_remedy(NULL) != SIM_REMEDY_RESTART)
		return dma_fence_wait_any_timeout(fence, count, true, timeout, first);
	return sim_remedy_sleep(sdev, fence, count, timeout, first, false);
}

/* As dma_fence_wait_timeout(), interruptibly. Faults of waits are of those without a remedy. */
long sim_remedy_wait(struct sim_device *sdev, struct dma_fence *fence, long timeout)
{
	u32 first;

	if (sim_remedy(NULL) != SIM_REMEDY_RESTART)
		return sim_fault_wait(sdev, fence, timeout);
	return sim_remedy_sleep(sdev, &fence, 1, timeout, &first, false);
}

/* The caller holds modeset locks, and drops them when we fail. */
long sim_remedy_wait_locked(struct sim_device *sdev, struct dma_fence *fence)
{
	u32 first;

	return sim_remedy_sleep(sdev, &fence, 1, MAX_SCHEDULE_TIMEOUT, &first, true);
}

/* Recovery: wake who waits, then take what they drop. */
void sim_remedy_lock(struct sim_device *sdev, struct drm_modeset_acquire_ctx *ctx)
{
	WRITE_ONCE(sdev->remedies.locking, true);
	atomic_inc(&sdev->remedies.restarts);
	wake_up_all(&sdev->remedies.wait);

	drm_modeset_acquire_init(ctx, 0);
	while (drm_modeset_lock_all_ctx(&sdev->drm, ctx) == -EDEADLK)
		drm_modeset_backoff(ctx);
}

void sim_remedy_unlock(struct sim_device *sdev, struct drm_modeset_acquire_ctx *ctx)
{
	WRITE_ONCE(sdev->remedies.locking, false);
	drm_modeset_drop_locks(ctx);
	drm_modeset_acquire_fini(ctx);
}

/*
 * Recovery: from here on no job runs, until somebody writes the remedy anew,
 * or has done so since recovery saw it with that number of writes.
 */
void sim_remedy_wedge(struct sim_device *sdev, u32 writes)
{
	WRITE_ONCE(sdev->remedies.wedged, writes);
}

bool sim_remedy_wedged(struct sim_device *sdev)
{
	u32 writes;

	sim_remedy(&writes);
	return READ_ONCE(sdev->remedies.wedged) == writes;
}

void sim_remedy_init(struct sim_device *sdev)
{
	init_waitqueue_head(&sdev->remedies.wait);
}
