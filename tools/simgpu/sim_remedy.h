/* SPDX-License-Identifier: GPL-2.0 */
/* Remedies for a reset that takes the modeset locks: see sim_remedy.c. */
#ifndef __SIM_REMEDY_H__
#define __SIM_REMEDY_H__

#include <linux/atomic.h>
#include <linux/types.h>
#include <linux/wait.h>

enum sim_remedy {
	SIM_REMEDY_NONE,
	SIM_REMEDY_RESTART,
	SIM_REMEDY_FORCE,
	SIM_NUM_REMEDIES
};

struct dma_fence;
struct drm_modeset_acquire_ctx;
struct sim_device;

struct sim_remedies {
	wait_queue_head_t wait;		/* simgpu's own waits sleep here */
	atomic_t restarts;		/* how often they were asked to restart */
	bool locking;			/* a reset wants the modeset locks, or has them */
	u32 wedged;			/* sim_remedy()'s writes when it was, or 0 */
};

void sim_remedy_init(struct sim_device *sdev);
long sim_remedy_wait(struct sim_device *sdev, struct dma_fence *fence, long timeout);
long sim_remedy_wait_any(struct sim_device *sdev, struct dma_fence **fence, u32 count,
			 long timeout, u32 *first);
long sim_remedy_wait_locked(struct sim_device *sdev, struct dma_fence *fence);

/* For recovery. */
void sim_remedy_lock(struct sim_device *sdev, struct drm_modeset_acquire_ctx *ctx);
void sim_remedy_unlock(struct sim_device *sdev, struct drm_modeset_acquire_ctx *ctx);
void sim_remedy_wedge(struct sim_device *sdev, u32 writes);
bool sim_remedy_wedged(struct sim_device *sdev);

#endif
