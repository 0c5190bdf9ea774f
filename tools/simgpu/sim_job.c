// SPDX-License-Identifier: GPL-2.0
/*
 * The life of a job outside the ring.
 *
 * A job ends in free_job, which TDR may call: there nothing may be taken or
 * dropped that a fence waiter could hold. So it is only put on a list, and a
 * worker, which TDR never waits for, gives back what the job holds.
 */
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include <drm/drm_drv.h>

#include "sim.h"

static LLIST_HEAD(sim_dead_jobs);
static struct workqueue_struct *sim_job_wq;

struct sim_job *sim_job_create(struct sim_device *sdev, struct sim_ctx *ctx, struct sim_vm *vm)
{
	struct sim_job *job = kzalloc(sizeof(*job), GFP_KERNEL);

	if (!job)
		return NULL;
	job->hw = sim_fence_alloc(sdev->core);
	if (!job->hw) {
		kfree(job);
		return NULL;
	}
	INIT_LIST_HEAD(&job->node);
	drm_dev_get(&sdev->drm);
	job->sdev = sdev;
	kref_get(&ctx->ref);
	job->ctx = ctx;
	job->vm = sim_vm_get(vm);
	job->pid = task_pid_nr(current);
	job->tgid = task_tgid_nr(current);
	get_task_comm(job->comm, current);
	get_task_comm(job->group_comm, current->group_leader);
	return job;
}

/* For jobs that were armed and ended, and for those that never were armed. */
void sim_job_destroy(struct sim_job *job)
{
	struct drm_sched_fence *s_fence = job->base.s_fence;
	struct drm_device *drm = &job->sdev->drm;

	if (job->armed && !job->hw->live) {
		sim_fence_start_unrun(job->hw);
		if (!s_fence->parent)
			s_fence->parent = dma_fence_get(&job->hw->base);
	}
	if (s_fence)
		drm_sched_job_cleanup(&job->base);
	if (job->hw->live)
		dma_fence_put(&job->hw->base);
	else
		sim_fence_free(job->hw);
	if (job->user_fence)
		drm_gem_object_put(&job->user_fence->base.base);
	sim_vm_put(job->vm);
	sim_ctx_put(job->ctx);
	kfree(job);
	drm_dev_put(drm);
}

static void sim_job_reaper(struct work_struct *work)
{
	struct llist_node *dead = llist_reverse_order(llist_del_all(&sim_dead_jobs));
	struct sim_job *job, *next;

	llist_for_each_entry_safe(job, next, dead, dead)
		sim_job_destroy(job);
}

static DECLARE_WORK(sim_job_work, sim_job_reaper);

/* drm_sched's free_job: allocates nothing, drops nothing. */
void sim_job_retire(struct sim_job *job)
{
	llist_add(&job->dead, &sim_dead_jobs);
	queue_work(sim_job_wq, &sim_job_work);
}

int sim_job_init(void)
{
	sim_job_wq = alloc_workqueue("simgpu", WQ_UNBOUND, 0);
	return sim_job_wq ? 0 : -ENOMEM;
}

void sim_job_exit(void)
{
	destroy_workqueue(sim_job_wq);
}
