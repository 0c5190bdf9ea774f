// SPDX-License-Identifier: GPL-2.0
/*
 * Hardware fences, and what keeps them valid.
 *
 * A sched fence holds its hw fence as its parent until it is freed, which may
 * be long after its job: a sync_file can keep it. So each hw fence pins the
 * module and the memory of the rings, where the scheduler's name is. The hw
 * fence of a job that never ran is signaled and attached when the job ends.
 */
#include <linux/dma-fence.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>

#include "sim.h"

static void sim_core_release(struct kref *ref)
{
	kfree(container_of(ref, struct sim_core, ref));
}

void sim_core_put(struct sim_core *core)
{
	kref_put(&core->ref, sim_core_release);
}

static const char *sim_fence_driver_name(struct dma_fence *base)
{
	return "amdgpu";
}

static const char *sim_fence_timeline_name(struct dma_fence *base)
{
	return container_of(base, struct sim_fence, base)->name;
}

/* Without a grace period only for a fence that was never started. */
void sim_fence_free(struct sim_fence *fence)
{
	sim_core_put(fence->core);
	kfree(fence);
	module_put(THIS_MODULE);
}

static void sim_fence_free_rcu(struct rcu_head *rcu)
{
	struct dma_fence *base = container_of(rcu, struct dma_fence, rcu);

	sim_fence_free(container_of(base, struct sim_fence, base));
}

/* By RCU: readers may still look, and module code runs until after module_put. */
static void sim_fence_release(struct dma_fence *base)
{
	call_rcu(&base->rcu, sim_fence_free_rcu);
}

static const struct dma_fence_ops sim_fence_ops = {
	.get_driver_name = sim_fence_driver_name,
	.get_timeline_name = sim_fence_timeline_name,
	.release = sim_fence_release,
};

/* Preallocated at submission: running a job must not allocate. */
struct sim_fence *sim_fence_alloc(struct sim_core *core)
{
	struct sim_fence *fence = kzalloc(sizeof(*fence), GFP_KERNEL);

	if (!fence)
		return NULL;
	__module_get(THIS_MODULE);
	kref_get(&core->ref);
	fence->core = core;
	spin_lock_init(&fence->lock);
	return fence;
}

/* From here on the fence is reference counted; the caller has the first one. */
void sim_fence_start(struct sim_fence *fence, struct sim_ring *ring, u32 seq)
{
	fence->name = ring->name;
	fence->live = true;
	dma_fence_init(&fence->base, &sim_fence_ops, &fence->lock, ring->fence_context, seq);
}

/* The same for a job that never ran: a signaled fence beside the rings' timelines. */
void sim_fence_start_unrun(struct sim_fence *fence)
{
	struct sim_core *core = fence->core;

	fence->name = "unrun";
	fence->live = true;
	dma_fence_init(&fence->base, &sim_fence_ops, &fence->lock, core->unrun_context,
		       atomic_inc_return(&core->unrun_seq));
	dma_fence_signal(&fence->base);
}
