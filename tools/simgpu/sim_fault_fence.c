// SPDX-License-Identifier: GPL-2.0
/* Faults of fences: the wrong end, the wrong number, the wrong time, or none at all. */
#include <linux/dma-fence.h>

#include "sim.h"

static void sim_fault_spare_signaled(struct dma_fence *fence, struct dma_fence_cb *cb)
{
}

/* A fence that nobody will signal, although somebody may have asked to be told. */
static void sim_fault_free_fence(struct sim_device *sdev, bool asked)
{
	struct sim_ring *ring = &sdev->core->ring[0];
	struct sim_fence *fence = xchg(&sdev->faults.spare, NULL);

	if (!fence)
		return;
	/* run_job stands still, so the timeline is ours */
	WRITE_ONCE(ring->emitted, ring->emitted + 1);
	sim_fence_start(fence, ring, ring->emitted);
	if (asked)
		dma_fence_add_callback(&fence->base, &sdev->faults.spare_cb,
				       sim_fault_spare_signaled);
	dma_fence_put(&fence->base);
}

/* The schedulers stand, nothing has ended yet. */
void sim_fault_stopped(struct sim_device *sdev, struct sim_job *guilty)
{
	u32 late = guilty ? sim_fault(sdev, SIM_FAULT_LATE) : 0;

	if (sim_fault(sdev, SIM_FAULT_FREED))
		sim_fault_free_fence(sdev, true);
	if (sim_fault(sdev, SIM_FAULT_FREED_SILENT))
		sim_fault_free_fence(sdev, false);
	if (late)
		wait_event_idle_timeout(sdev->faults.wait, !sim_fault(sdev, SIM_FAULT_LATE),
					msecs_to_jiffies(late));
}

/* The number of a hw fence that should have seq. */
u32 sim_fault_seqno(struct sim_device *sdev, u32 seq)
{
	u32 less = sim_fault(sdev, SIM_FAULT_SEQNO);

	return less < seq ? seq - less : seq;
}

/* What the guilty job ends with. */
int sim_fault_error(struct sim_device *sdev)
{
	u32 wrong = sim_fault(sdev, SIM_FAULT_WRONG_ERROR);

	if (sim_fault(sdev, SIM_FAULT_NO_ERROR))
		return 0;
	return wrong ? -(int)min_t(u32, wrong, MAX_ERRNO) : -ETIME;
}

/*
 * Take the guilty job from its ring and its scheduler, whose drm_sched_stop()
 * has given up its parent and its credits, and keep it with its fences pending.
 */
bool sim_fault_park(struct sim_device *sdev, struct sim_job *job)
{
	struct drm_gpu_scheduler *sched = job->base.sched;
	struct sim_ring *ring = to_sim_ring(sched);

	spin_lock(&sdev->faults.parked_lock);
	if (!sim_fault(sdev, SIM_FAULT_PENDING)) {
		spin_unlock(&sdev->faults.parked_lock);
		return false;
	}
	spin_lock(&ring->lock);
	list_del_init(&job->node);
	spin_unlock(&ring->lock);
	spin_lock(&sched->job_list_lock);
	list_del_init(&job->base.list);
	spin_unlock(&sched->job_list_lock);
	/* it is nobody's load any more, as drm_sched_job_done() says of others */
	atomic_dec(sched->score);
	list_add_tail(&job->node, &sdev->faults.parked);
	spin_unlock(&sdev->faults.parked_lock);
	return true;
}

static void sim_fault_unpark(struct sim_device *sdev)
{
	struct sim_job *job, *next;
	LIST_HEAD(jobs);

	spin_lock(&sdev->faults.parked_lock);
	list_splice_init(&sdev->faults.parked, &jobs);
	spin_unlock(&sdev->faults.parked_lock);

	list_for_each_entry_safe(job, next, &jobs, node) {
		struct dma_fence *finished = &job->base.s_fence->finished;

		list_del_init(&job->node);
		if (!job->base.s_fence->parent)
			job->base.s_fence->parent = dma_fence_get(&job->hw->base);
		dma_fence_set_error(&job->hw->base, -ETIME);
		dma_fence_signal(&job->hw->base);
		dma_fence_set_error(finished, -ETIME);
		dma_fence_signal(finished);
		sim_job_retire(job);
	}
}

/* What must be there before a fence can be freed where allocation is not allowed. */
int sim_fault_prepare_fence(struct sim_device *sdev)
{
	if (!sdev->faults.spare)
		sdev->faults.spare = sim_fence_alloc(sdev->core);
	return sdev->faults.spare ? 0 : -ENOMEM;
}

/* Let go of the jobs and the fence that no fault needs any more. */
void sim_fault_settle_fence(struct sim_device *sdev)
{
	struct sim_fence *spare;

	if (!sim_fault(sdev, SIM_FAULT_PENDING))
		sim_fault_unpark(sdev);
	if (sim_fault(sdev, SIM_FAULT_FREED) || sim_fault(sdev, SIM_FAULT_FREED_SILENT))
		return;
	spare = xchg(&sdev->faults.spare, NULL);
	if (spare)
		sim_fence_free(spare);
}
