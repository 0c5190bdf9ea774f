// SPDX-License-Identifier: GPL-2.0
/*
 * Submission. Chunks are copied in first, then turned into a job and its
 * dependencies; only when nothing can fail any more is the job armed, its
 * fence published and the job pushed, under the locks of entity and BOs.
 */
#include <linux/dma-fence-chain.h>
#include <linux/dma-resv.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include <drm/drm_drv.h>
#include <drm/drm_syncobj.h>

#include "sim.h"

#define SIM_MAX_CHUNKS	64
#define SIM_MAX_CHUNK_DW 16384
#define SIM_MAX_IB_DW	0xfffff
#define SIM_IB_FLAGS	(AMDGPU_IB_FLAG_PREAMBLE | AMDGPU_IB_FLAG_PREEMPT | \
			 AMDGPU_IB_FLAG_TC_WB_NOT_INVALIDATE | \
			 AMDGPU_IB_FLAG_RESET_GDS_MAX_WAVE_ID | AMDGPU_IB_FLAG_EMIT_MEM_SYNC)

struct sim_chunk {
	u32 id;
	u32 bytes;
	void *data;
};

struct sim_signal {
	struct drm_syncobj *syncobj;
	struct dma_fence_chain *chain;	/* of a timeline */
	u64 point;
};

struct sim_cs {
	struct drm_device *drm;
	struct drm_file *file;
	struct sim_file *sfile;
	struct sim_ctx *ctx;
	struct sim_entity *entity;
	u32 ip;
	u32 num_chunks;
	struct sim_chunk *chunk;
	struct sim_list *list;
	struct sim_bo *user_fence;
	u32 user_fence_offset;
	u32 num_ibs;
	struct sim_ib ib[SIM_MAX_IBS];
	struct sim_job *job;
	u32 num_signals;
	u32 max_signals;
	struct sim_signal *signal;
};

static int sim_cs_copy_chunks(struct sim_cs *cs, u64 pointers)
{
	u64 __user *from = u64_to_user_ptr(pointers);
	u32 i;

	cs->chunk = kcalloc(cs->num_chunks, sizeof(*cs->chunk), GFP_KERNEL);
	if (!cs->chunk)
		return -ENOMEM;
	for (i = 0; i < cs->num_chunks; i++) {
		struct drm_amdgpu_cs_chunk uchunk;
		void *data;
		u64 p;

		if (get_user(p, from + i) ||
		    copy_from_user(&uchunk, u64_to_user_ptr(p), sizeof(uchunk)))
			return -EFAULT;
		if (!uchunk.length_dw || uchunk.length_dw > SIM_MAX_CHUNK_DW)
			return -EINVAL;
		data = vmemdup_user(u64_to_user_ptr(uchunk.chunk_data), uchunk.length_dw * 4);
		if (IS_ERR(data))
			return PTR_ERR(data);
		cs->chunk[i].id = uchunk.chunk_id;
		cs->chunk[i].bytes = uchunk.length_dw * 4;
		cs->chunk[i].data = data;
	}
	return 0;
}

static int sim_cs_ib(struct sim_cs *cs, const struct sim_chunk *chunk)
{
	const struct drm_amdgpu_cs_chunk_ib *in = chunk->data;
	struct sim_entity *entity;
	struct sim_ib *ib;

	if (chunk->bytes < sizeof(*in) || in->flags & ~SIM_IB_FLAGS)
		return -EINVAL;
	if (!in->ib_bytes || in->ib_bytes & 3 || in->va_start & 3 ||
	    in->ib_bytes / 4 > SIM_MAX_IB_DW || cs->num_ibs == SIM_MAX_IBS)
		return -EINVAL;
	entity = sim_ctx_entity(to_sim_device(cs->drm), cs->ctx, in->ip_type, in->ip_instance,
				in->ring);
	if (IS_ERR(entity))
		return PTR_ERR(entity);
	if (cs->entity && cs->entity != entity)		/* no gang submission */
		return -EINVAL;
	cs->entity = entity;
	cs->ip = in->ip_type;
	ib = &cs->ib[cs->num_ibs++];
	ib->va = in->va_start & SIM_VA_MASK;
	ib->dwords = in->ib_bytes / 4;
	return 0;
}

static int sim_cs_user_fence(struct sim_cs *cs, const struct sim_chunk *chunk)
{
	const struct drm_amdgpu_cs_chunk_fence *in = chunk->data;
	struct drm_gem_object *obj;
	int ret;

	if (chunk->bytes < sizeof(*in) || cs->user_fence)
		return -EINVAL;
	obj = drm_gem_object_lookup(cs->file, in->handle);
	if (!obj)
		return -EINVAL;
	cs->user_fence = to_sim_bo(obj);
	cs->user_fence_offset = in->offset;
	ret = sim_bo_map(cs->user_fence);
	if (ret)
		return ret;
	/* amdgpu wants a BO of one page for this */
	if (obj->size != PAGE_SIZE || in->offset > PAGE_SIZE - sizeof(u64) ||
	    in->offset % sizeof(u64))
		return -EINVAL;
	return 0;
}

static int sim_cs_bo_handles(struct sim_cs *cs, const struct sim_chunk *chunk)
{
	const struct drm_amdgpu_bo_list_in *in = chunk->data;
	struct sim_list *list;

	if (chunk->bytes < sizeof(*in) || cs->list)
		return -EINVAL;
	list = sim_list_create(cs->file, in);
	if (IS_ERR(list))
		return PTR_ERR(list);
	cs->list = list;
	return 0;
}

/* What decides where the job goes and what it uses. */
static int sim_cs_first_pass(struct sim_cs *cs)
{
	u32 i;
	int ret;

	for (i = 0; i < cs->num_chunks; i++) {
		const struct sim_chunk *chunk = &cs->chunk[i];
		u32 signals = 0;

		ret = 0;
		switch (chunk->id) {
		case AMDGPU_CHUNK_ID_IB:
			ret = sim_cs_ib(cs, chunk);
			break;
		case AMDGPU_CHUNK_ID_FENCE:
			ret = sim_cs_user_fence(cs, chunk);
			break;
		case AMDGPU_CHUNK_ID_BO_HANDLES:
			ret = sim_cs_bo_handles(cs, chunk);
			break;
		case AMDGPU_CHUNK_ID_SYNCOBJ_OUT:
			signals = chunk->bytes / sizeof(struct drm_amdgpu_cs_chunk_sem);
			break;
		case AMDGPU_CHUNK_ID_SYNCOBJ_TIMELINE_SIGNAL:
			signals = chunk->bytes / sizeof(struct drm_amdgpu_cs_chunk_syncobj);
			break;
		case AMDGPU_CHUNK_ID_DEPENDENCIES:
		case AMDGPU_CHUNK_ID_SCHEDULED_DEPENDENCIES:
		case AMDGPU_CHUNK_ID_SYNCOBJ_IN:
		case AMDGPU_CHUNK_ID_SYNCOBJ_TIMELINE_WAIT:
			break;
		default:
			ret = -EINVAL;
		}
		if (ret)
			return ret;
		cs->max_signals += signals;
	}
	return cs->num_ibs ? 0 : -EINVAL;
}

static int sim_cs_depend(struct sim_cs *cs, const struct sim_chunk *chunk)
{
	const struct drm_amdgpu_cs_chunk_dep *in = chunk->data;
	u32 i, count = chunk->bytes / sizeof(*in);

	for (i = 0; i < count; i++, in++) {
		struct sim_ctx *ctx = sim_ctx_find(cs->sfile, in->ctx_id);
		struct dma_fence *fence;
		int ret;

		if (!ctx)
			return -EINVAL;
		fence = sim_ctx_fence(ctx, in->ip_type, in->ip_instance, in->ring, in->handle);
		sim_ctx_done(ctx);
		if (IS_ERR(fence))
			return PTR_ERR(fence);
		if (fence && chunk->id == AMDGPU_CHUNK_ID_SCHEDULED_DEPENDENCIES) {
			struct drm_sched_fence *s_fence = to_drm_sched_fence(fence);
			struct dma_fence *finished = fence;

			fence = dma_fence_get(&s_fence->scheduled);
			dma_fence_put(finished);
		}
		ret = drm_sched_job_add_dependency(&cs->job->base, fence);
		if (ret)
			return ret;
	}
	return 0;
}

static int sim_cs_wait(struct sim_cs *cs, u32 handle, u64 point, u64 flags)
{
	struct dma_fence *fence;
	int ret;

	ret = drm_syncobj_find_fence(cs->file, handle, point, flags, &fence);
	return ret ?: drm_sched_job_add_dependency(&cs->job->base, fence);
}

static int sim_cs_signal(struct sim_cs *cs, u32 handle, u64 point)
{
	struct sim_signal *signal = &cs->signal[cs->num_signals];

	signal->syncobj = drm_syncobj_find(cs->file, handle);
	if (!signal->syncobj)
		return -EINVAL;
	cs->num_signals++;
	if (point) {
		signal->chain = dma_fence_chain_alloc();
		if (!signal->chain)
			return -ENOMEM;
		signal->point = point;
	}
	return 0;
}

static int sim_cs_syncobjs(struct sim_cs *cs, const struct sim_chunk *chunk)
{
	const struct drm_amdgpu_cs_chunk_sem *sem = chunk->data;
	const struct drm_amdgpu_cs_chunk_syncobj *timeline = chunk->data;
	bool is_sem = chunk->id == AMDGPU_CHUNK_ID_SYNCOBJ_IN ||
		      chunk->id == AMDGPU_CHUNK_ID_SYNCOBJ_OUT;
	bool wait = chunk->id == AMDGPU_CHUNK_ID_SYNCOBJ_IN ||
		    chunk->id == AMDGPU_CHUNK_ID_SYNCOBJ_TIMELINE_WAIT;
	u32 i, count = chunk->bytes / (is_sem ? sizeof(*sem) : sizeof(*timeline));
	int ret = 0;

	for (i = 0; i < count && !ret; i++) {
		if (wait && is_sem)
			ret = sim_cs_wait(cs, sem[i].handle, 0, 0);
		else if (wait)
			ret = sim_cs_wait(cs, timeline[i].handle, timeline[i].point,
					  timeline[i].flags);
		else if (is_sem)
			ret = sim_cs_signal(cs, sem[i].handle, 0);
		else
			ret = sim_cs_signal(cs, timeline[i].handle, timeline[i].point);
	}
	return ret;
}

/* What the job waits for, and who waits for it. */
static int sim_cs_second_pass(struct sim_cs *cs)
{
	u32 i;
	int ret = 0;

	if (cs->max_signals) {
		cs->signal = kvcalloc(cs->max_signals, sizeof(*cs->signal), GFP_KERNEL);
		if (!cs->signal)
			return -ENOMEM;
	}
	for (i = 0; i < cs->num_chunks && !ret; i++) {
		const struct sim_chunk *chunk = &cs->chunk[i];

		switch (chunk->id) {
		case AMDGPU_CHUNK_ID_DEPENDENCIES:
		case AMDGPU_CHUNK_ID_SCHEDULED_DEPENDENCIES:
			ret = sim_cs_depend(cs, chunk);
			break;
		case AMDGPU_CHUNK_ID_SYNCOBJ_IN:
		case AMDGPU_CHUNK_ID_SYNCOBJ_OUT:
		case AMDGPU_CHUNK_ID_SYNCOBJ_TIMELINE_WAIT:
		case AMDGPU_CHUNK_ID_SYNCOBJ_TIMELINE_SIGNAL:
			ret = sim_cs_syncobjs(cs, chunk);
			break;
		}
	}
	return ret;
}

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

	sim_entity_pin(to_sim_device(cs->drm), entity, cs->ip);
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
	if (atomic_read(&cs->ctx->guilty))
		return -ECANCELED;
	if (args->in.bo_list_handle) {
		cs->list = sim_list_find(cs->sfile, args->in.bo_list_handle);
		if (!cs->list)
			return -ENOENT;
	}

	ret = sim_cs_copy_chunks(cs, args->in.chunks);
	if (!ret)
		ret = sim_cs_first_pass(cs);
	/* as amdgpu: an entity whose last job failed takes no more */
	if (!ret)
		ret = drm_sched_entity_error(&cs->entity->base);
	if (!ret)
		ret = sim_cs_create_job(cs);
	if (!ret)
		ret = sim_cs_second_pass(cs);
	if (!ret)
		ret = sim_cs_submit(cs, &handle);
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
