// SPDX-License-Identifier: GPL-2.0
/*
 * A ring: a drm_gpu_scheduler, a timeline of hw fences, and the thread that
 * is the hardware. The thread takes only spinlocks and allocates nothing, so
 * that recovery may wait for it to halt.
 */
#include <linux/dma-fence.h>
#include <linux/kthread.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include <drm/drm_managed.h>

#include "sim.h"

/* As amdgpu's sched_hw_submission: one job executes, one is behind it. */
#define SIM_HW_JOBS 2

static struct dma_fence *sim_ring_run_job(struct drm_sched_job *base)
{
	struct sim_ring *ring = to_sim_ring(base->sched);
	struct sim_job *job = to_sim_job(base);
	struct dma_fence *fence;

	/* Marked by the scheduler when its context is guilty. */
	if (base->s_fence->finished.error)
		return ERR_PTR(base->s_fence->finished.error);

	spin_lock(&ring->lock);
	if (ring->gone || sim_fault_wedged(ring->sdev)) {
		int error = ring->gone ? -ENODEV : -EINVAL;

		spin_unlock(&ring->lock);
		return ERR_PTR(error);
	}
	if (sim_remedy_wedged(ring->sdev)) {
		spin_unlock(&ring->lock);
		return ERR_PTR(-ECANCELED);
	}
	sim_fence_start(job->hw, ring, sim_fault_seqno(ring->sdev, ring->emitted + 1));
	WRITE_ONCE(ring->emitted, ring->emitted + 1);
	fence = dma_fence_get(&job->hw->base);
	list_add_tail(&job->node, &ring->jobs);
	sim_coredump_note(ring, job);
	spin_unlock(&ring->lock);

	wake_up_all(&ring->wait);
	return fence;
}

static void sim_ring_free_job(struct drm_sched_job *base)
{
	sim_job_retire(to_sim_job(base));
}

const struct drm_sched_backend_ops sim_sched_ops = {
	.run_job = sim_ring_run_job,
	.timedout_job = sim_reset_timedout,
	.free_job = sim_ring_free_job,
};

static struct sim_job *sim_ring_head(struct sim_ring *ring)
{
	struct sim_job *job;

	spin_lock(&ring->lock);
	job = list_first_entry_or_null(&ring->jobs, struct sim_job, node);
	spin_unlock(&ring->lock);
	return job;
}

/* Take the head off the ring and signal it. The job may be freed meanwhile. */
static void sim_ring_complete(struct sim_ring *ring, struct sim_job *job, int error)
{
	struct dma_fence *fence = dma_fence_get(&job->hw->base);

	if (job->user_fence && !error) {
		u64 *slot = job->user_fence->vaddr + job->user_fence_offset;

		WRITE_ONCE(*slot, job->handle);
	}

	spin_lock(&ring->lock);
	list_del_init(&job->node);
	spin_unlock(&ring->lock);

	if (error)
		dma_fence_set_error(fence, error);
	WRITE_ONCE(ring->signaled, (u32)fence->seqno);
	dma_fence_signal(fence);
	dma_fence_put(fence);
}

static bool sim_ring_halting(struct sim_ring *ring)
{
	return READ_ONCE(ring->halt) || kthread_should_stop();
}

/* Whether what is executed ends here and now. */
bool sim_ring_dropping(struct sim_ring *ring, const struct sim_job *job)
{
	return sim_ring_halting(ring) || READ_ONCE(job->killed);
}

static void sim_ring_execute(struct sim_ring *ring, struct sim_job *job)
{
	bool cookie = dma_fence_begin_signalling();
	bool killed;
	int ret = 0;
	u32 i;

	for (i = 0; i < job->num_ibs && !ret; i++)
		ret = sim_exec_run(ring, job, &job->ib[i]);

	if (ret)	/* hung, until somebody resets us */
		wait_event_idle(ring->wait, sim_ring_dropping(ring, job));
	killed = READ_ONCE(job->killed);
	if (!ret || killed) {
		sim_ring_complete(ring, job, killed ? -ENODATA : 0);
		wake_up_all(&ring->wait);	/* sim_ring_kill() */
	}
	dma_fence_end_signalling(cookie);
}

static int sim_ring_thread(void *data)
{
	struct sim_ring *ring = data;
	struct sim_job *job;

	while (!kthread_should_stop()) {
		wait_event_idle(ring->wait, sim_ring_halting(ring) || sim_ring_head(ring));
		if (sim_ring_halting(ring)) {
			WRITE_ONCE(ring->halted, true);
			wake_up_all(&ring->wait);
			wait_event_idle(ring->wait,
					!READ_ONCE(ring->halt) || kthread_should_stop());
			continue;
		}
		job = sim_ring_head(ring);
		if (job)
			sim_ring_execute(ring, job);
	}
	return 0;
}

/* Stop execution where it is. Jobs stay on the ring. Reset worker only. */
void sim_ring_halt(struct sim_ring *ring)
{
	WRITE_ONCE(ring->halt, true);
	wake_up_all(&ring->wait);
	wait_event(ring->wait, READ_ONCE(ring->halted));
}

/*
 * End one job with -ENODATA wherever its execution is, and go on with the next.
 * Reset worker only, which has the job. The error comes first, as in amdgpu: a
 * job that ends by itself meanwhile has it too.
 */
void sim_ring_kill(struct sim_ring *ring, struct sim_job *job)
{
	struct dma_fence *fence = &job->hw->base;
	unsigned long flags;

	spin_lock_irqsave(fence->lock, flags);
	if (!dma_fence_is_signaled_locked(fence))
		dma_fence_set_error(fence, -ENODATA);
	spin_unlock_irqrestore(fence->lock, flags);

	WRITE_ONCE(job->killed, true);
	wake_up_all(&ring->wait);
	wait_event(ring->wait, dma_fence_is_signaled(fence));
}

void sim_ring_resume(struct sim_ring *ring)
{
	WRITE_ONCE(ring->halted, false);
	WRITE_ONCE(ring->halt, false);
	wake_up_all(&ring->wait);
}

/* End all jobs of a halted ring: the guilty one has timed out. */
void sim_ring_cancel(struct sim_ring *ring, struct sim_job *guilty, int error)
{
	struct sim_device *sdev = ring->sdev;
	struct sim_job *job, *next;

	if (sim_fault(sdev, SIM_FAULT_ORDER)) {
		LIST_HEAD(reversed);

		spin_lock(&ring->lock);
		list_for_each_entry_safe(job, next, &ring->jobs, node)
			list_move(&job->node, &reversed);
		list_splice(&reversed, &ring->jobs);
		spin_unlock(&ring->lock);
	}
	while ((job = sim_ring_head(ring))) {
		if (job != guilty)
			sim_ring_complete(ring, job, error);
		else if (!sim_fault_park(sdev, job))
			sim_ring_complete(ring, job, sim_fault_error(sdev));
	}
}

static void sim_rings_release(struct drm_device *drm, void *data)
{
	struct sim_core *core = data;
	struct sim_ring *ring;

	for (ring = core->ring; ring < core->ring + SIM_NUM_RINGS; ring++) {
		if (ring->sched.ready)
			drm_sched_fini(&ring->sched);
		kfree(ring->bounce);
		ring->bounce = NULL;
	}
	sim_core_put(core);
}

static int sim_ring_init(struct sim_device *sdev, struct sim_ring *ring)
{
	const struct drm_sched_init_args args = {
		.ops = &sim_sched_ops,
		.num_rqs = DRM_SCHED_PRIORITY_COUNT,
		.credit_limit = SIM_HW_JOBS,
		.timeout = sim_lockup_timeout(ring->ip),
		.timeout_wq = sdev->reset_wq,
		.name = ring->name,
		.dev = sdev->drm.dev,
	};

	ring->bounce = kmalloc(SIM_BOUNCE, GFP_KERNEL);
	if (!ring->bounce)
		return -ENOMEM;
	return drm_sched_init(&ring->sched, &args);
}

int sim_rings_create(struct sim_device *sdev)
{
	static const u32 count[SIM_NUM_IPS] = { SIM_NUM_GFX, SIM_NUM_COMPUTE, SIM_NUM_SDMA };
	struct sim_core *core;
	struct sim_ring *ring;
	u32 ip, i;
	int ret;

	core = kzalloc(sizeof(*core), GFP_KERNEL);
	if (!core)
		return -ENOMEM;
	kref_init(&core->ref);
	core->unrun_context = dma_fence_context_alloc(1);
	sdev->core = core;

	ring = core->ring;
	for (ip = 0; ip < SIM_NUM_IPS; ip++) {
		for (i = 0; i < count[ip]; i++, ring++) {
			if (ip == AMDGPU_HW_IP_GFX)
				strscpy(ring->name, "gfx_0.0.0");
			else if (ip == AMDGPU_HW_IP_COMPUTE)
				snprintf(ring->name, sizeof(ring->name), "comp_1.%u.0", i);
			else
				snprintf(ring->name, sizeof(ring->name), "sdma%u", i);
			ring->core = core;
			ring->sdev = sdev;
			ring->index = ring - core->ring;
			ring->ip = ip;
			ring->ip_index = i;
			ring->fence_context = dma_fence_context_alloc(1);
			spin_lock_init(&ring->lock);
			INIT_LIST_HEAD(&ring->jobs);
			init_waitqueue_head(&ring->wait);
		}
	}

	ret = drmm_add_action_or_reset(&sdev->drm, sim_rings_release, core);
	if (ret)
		return ret;
	for (ring = core->ring; ring < core->ring + SIM_NUM_RINGS; ring++) {
		ret = sim_ring_init(sdev, ring);
		if (ret)
			return ret;
	}
	return 0;
}

int sim_rings_start(struct sim_device *sdev)
{
	struct sim_core *core = sdev->core;
	struct task_struct *thread;
	struct sim_ring *ring;

	for (ring = core->ring; ring < core->ring + SIM_NUM_RINGS; ring++) {
		thread = kthread_run(sim_ring_thread, ring, "simgpu/%s", ring->name);
		if (IS_ERR(thread)) {
			sim_rings_stop(sdev);
			return PTR_ERR(thread);
		}
		ring->thread = thread;
	}
	return 0;
}

/* The hardware is gone: end what it had, refuse what comes, end the threads. */
void sim_rings_stop(struct sim_device *sdev)
{
	struct sim_core *core = sdev->core;
	struct sim_ring *ring;

	queue_work(sdev->reset_wq, &sdev->unplug_work);
	flush_work(&sdev->unplug_work);

	for (ring = core->ring; ring < core->ring + SIM_NUM_RINGS; ring++) {
		if (ring->thread)
			kthread_stop(ring->thread);
		ring->thread = NULL;
	}
}
