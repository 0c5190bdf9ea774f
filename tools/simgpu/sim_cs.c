// SPDX-License-Identifier: GPL-2.0
/*
 * Submission. Chunks are copied in first, then turned into a job and its
 * dependencies; only when nothing can fail any more is the job armed, its
 * fence published and the job pushed, under the locks of entity and BOs.
 */
#include <linux/dma-fence-chain.h>
#include <linux/dma-resv.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include <drm/drm_syncobj.h>

#include "sim_cs.h"

#define SIM_MAX_CHUNKS	64

static int sim_cs_create_job(struct sim_cs *cs)
{
	struct sim_job *job;
	int ret;

	job = sim_job_create(to_sim_device(cs->drm), cs->ctx, cs->sfile->vm);
	if (!job)
		return -ENOMEM;
	cs->job = job;
	ret = drm_sched_job_init(&job->base, &cs->entity->base, 1, cs->sfile,
				 cs->file->client_id);
	if (ret)
		return ret;
	job->num_ibs = cs->num_ibs;
	memcpy(job->ib, cs->ib, sizeof(job->ib));
	job->user_fence = cs->user_fence;
	job->user_fence_offset = cs->user_fence_offset;
	cs->user_fence = NULL;
	return 0;
}

/*
 * Implicit dependencies. As in amdgpu, not on jobs of the same open file:
 * those are ordered by what userspace says.
 */
static int sim_cs_implicit(struct sim_cs *cs, struct drm_gem_object *obj)
{
	struct dma_resv_iter cursor;
	struct dma_fence *fence;
	int ret;

	ret = dma_resv_reserve_fences(obj->resv, 1);
	if (ret || to_sim_bo(obj)->flags & AMDGPU_GEM_CREATE_EXPLICIT_SYNC)
		return ret;
	dma_resv_for_each_fence(&cursor, obj->resv, DMA_RESV_USAGE_READ, fence) {
		struct drm_sched_fence *s_fence = to_drm_sched_fence(fence);

		if (s_fence && s_fence->owner == cs->sfile)
			continue;
		ret = drm_sched_job_add_dependency(&cs->job->base, dma_fence_get(fence));
		if (ret)
			return ret;
	}
	return 0;
}

static void sim_cs_publish(struct sim_cs *cs, struct dma_fence *fence)
{
	u32 i;

	for (i = 0; cs->list && i < cs->list->count; i++)
		dma_resv_add_fence(cs->list->obj[i]->resv, fence, DMA_RESV_USAGE_WRITE);

	for (i = 0; i < cs->num_signals; i++) {
		struct sim_signal *signal = &cs->signal[i];

		if (signal->chain)
			drm_syncobj_add_point(signal->syncobj, signal->chain, fence,
					      signal->point);
		else
			drm_syncobj_replace_fence(signal->syncobj, fence);
		signal->chain = NULL;
	}
}

/* Under entity->lock, with room for the fence. */
static int sim_cs_push(struct sim_cs *cs, u64 *handle)
{
	struct sim_device *sdev = to_sim_device(cs->drm);
	u32 i, count = cs->list ? cs->list->count : 0;
	struct sim_entity *entity = cs->entity;
	struct ww_acquire_ctx acquire;
	struct sim_job *job = cs->job;
	struct dma_fence *fence, *old;
	int ret = 0;

	if (count) {
		ret = drm_gem_lock_reservations(cs->list->obj, count, &acquire);
		if (ret)
			return ret;
		for (i = 0; i < count && !ret; i++)
			ret = sim_cs_implicit(cs, cs->list->obj[i]);
		if (ret)
			goto unlock;
	}

	mutex_lock(&sdev->notifier_lock);
	for (i = 0; i < count && !ret; i++)
		if (sim_user_stale(to_sim_bo(cs->list->obj[i])))
			ret = -EAGAIN;
	if (ret)
		goto unlock_notifier;

	sim_entity_pin(sdev, entity, cs->ip);
	drm_sched_job_arm(&job->base);
	job->armed = true;
	fence = dma_fence_get(&job->base.s_fence->finished);

	spin_lock(&entity->fence_lock);
	*handle = entity->seq++;
	old = entity->fence[*handle % SIM_CTX_FENCES];
	entity->fence[*handle % SIM_CTX_FENCES] = dma_fence_get(fence);
	spin_unlock(&entity->fence_lock);
	dma_fence_put(old);
	job->handle = *handle;

	sim_cs_publish(cs, fence);
	drm_sched_entity_push_job(&job->base);
	cs->job = NULL;
	dma_fence_put(fence);
unlock_notifier:
	mutex_unlock(&sdev->notifier_lock);
unlock:
	if (count)
		drm_gem_unlock_reservations(cs->list->obj, count, &acquire);
	return ret;
}

/* Wait until the fence whose place ours will take has signaled, then push. */
static int sim_cs_submit(struct sim_cs *cs, u64 *handle)
{
	struct sim_entity *entity = cs->entity;
	struct dma_fence *old;
	int ret;

	for (;;) {
		ret = mutex_lock_interruptible(&entity->lock);
		if (ret)
			return ret;
		spin_lock(&entity->fence_lock);
		old = dma_fence_get(entity->fence[entity->seq % SIM_CTX_FENCES]);
		spin_unlock(&entity->fence_lock);
		if (!old || dma_fence_is_signaled(old))
			break;
		mutex_unlock(&entity->lock);

		ret = dma_fence_wait(old, true);
		dma_fence_put(old);
		if (ret)
			return ret;
	}
	dma_fence_put(old);

	ret = sim_cs_push(cs, handle);
	mutex_unlock(&entity->lock);
	return ret;
}

/* Have the memory that the BOs are made of, and submit before it changes again. */
static int sim_cs_submit_fresh(struct sim_cs *cs, u64 *handle)
{
	int ret;

	do {
		u32 i, count = cs->list ? cs->list->count : 0;

		for (i = 0, ret = 0; i < count && !ret; i++)
			ret = sim_user_refresh(to_sim_bo(cs->list->obj[i]));
		if (!ret)
			ret = sim_cs_submit(cs, handle);
	} while (ret == -EAGAIN && !signal_pending(current));
	return ret == -EAGAIN ? -ERESTARTSYS : ret;
}

static void sim_cs_fini(struct sim_cs *cs)
{
	u32 i;

	for (i = 0; i < cs->num_signals; i++) {
		dma_fence_chain_free(cs->signal[i].chain);
		drm_syncobj_put(cs->signal[i].syncobj);
	}
	kvfree(cs->signal);
	if (cs->job)
		sim_job_destroy(cs->job);
	if (cs->user_fence)
		drm_gem_object_put(&cs->user_fence->base.base);
	sim_list_put(cs->list);
	for (i = 0; cs->chunk && i < cs->num_chunks; i++)
		kvfree(cs->chunk[i].data);
	kfree(cs->chunk);
	if (cs->ctx)
		sim_ctx_done(cs->ctx);
	kfree(cs);
}

static int sim_cs_run(struct sim_cs *cs, union drm_amdgpu_cs *args)
{
	u64 handle;
	int ret;

	cs->num_chunks = args->in.num_chunks;
	if (!cs->num_chunks || cs->num_chunks > SIM_MAX_CHUNKS || args->in.flags)
		return -EINVAL;
	cs->ctx = sim_ctx_find(cs->sfile, args->in.ctx_id);
	if (!cs->ctx)
		return -EINVAL;
	if (atomic_read(&cs->ctx->guilty) || sim_remedy_wedged(to_sim_device(cs->drm)))
		return -ECANCELED;
	if (args->in.bo_list_handle) {
		cs->list = sim_list_find(cs->sfile, args->in.bo_list_handle);
		if (!cs->list)
			return -ENOENT;
	}

	ret = sim_chunks_copy(cs, args->in.chunks);
	if (!ret)
		ret = sim_chunks_parse(cs);
	/* as amdgpu: an entity whose last job failed takes no more */
	if (!ret)
		ret = drm_sched_entity_error(&cs->entity->base);
	if (!ret)
		ret = sim_cs_create_job(cs);
	if (!ret)
		ret = sim_chunks_sync(cs);
	if (!ret)
		ret = sim_cs_submit_fresh(cs, &handle);
	if (ret)
		return ret;

	memset(args, 0, sizeof(*args));
	args->out.handle = handle;
	return 0;
}

int sim_cs_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	struct sim_file *sfile = file->driver_priv;
	struct sim_cs *cs;
	int ret;

	cs = kzalloc(sizeof(*cs), GFP_KERNEL);
	if (!cs)
		return -ENOMEM;
	cs->drm = drm;
	cs->file = file;
	cs->sfile = sfile;

	sim_vm_reap(sfile->vm);
	ret = sim_cs_run(cs, data);
	sim_cs_fini(cs);
	return ret;
}
