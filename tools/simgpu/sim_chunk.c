// SPDX-License-Identifier: GPL-2.0
/* The chunks of a submission: copied in, checked, turned into parts of a job. */
#include <linux/dma-fence-chain.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include <drm/drm_syncobj.h>

#include "sim_cs.h"

#define SIM_MAX_CHUNK_DW 16384
#define SIM_MAX_IB_DW	0xfffff
#define SIM_IB_FLAGS	(AMDGPU_IB_FLAG_PREAMBLE | AMDGPU_IB_FLAG_PREEMPT | \
			 AMDGPU_IB_FLAG_TC_WB_NOT_INVALIDATE | \
			 AMDGPU_IB_FLAG_RESET_GDS_MAX_WAVE_ID | AMDGPU_IB_FLAG_EMIT_MEM_SYNC)

/* Bring all chunks into the kernel, once. */
int sim_chunks_copy(struct sim_cs *cs, u64 pointers)
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

static int sim_chunk_ib(struct sim_cs *cs, const struct sim_chunk *chunk)
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

static int sim_chunk_user_fence(struct sim_cs *cs, const struct sim_chunk *chunk)
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
	/* amdgpu wants a BO of one page for this, and not a process's own memory */
	if (cs->user_fence->user || obj->size != PAGE_SIZE ||
	    in->offset > PAGE_SIZE - sizeof(u64) ||
	    in->offset % sizeof(u64))
		return -EINVAL;
	return 0;
}

static int sim_chunk_bo_handles(struct sim_cs *cs, const struct sim_chunk *chunk)
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

/* First pass: what decides where the job goes and what it uses. */
int sim_chunks_parse(struct sim_cs *cs)
{
	u32 i;
	int ret;

	for (i = 0; i < cs->num_chunks; i++) {
		const struct sim_chunk *chunk = &cs->chunk[i];
		u32 signals = 0;

		ret = 0;
		switch (chunk->id) {
		case AMDGPU_CHUNK_ID_IB:
			ret = sim_chunk_ib(cs, chunk);
			break;
		case AMDGPU_CHUNK_ID_FENCE:
			ret = sim_chunk_user_fence(cs, chunk);
			break;
		case AMDGPU_CHUNK_ID_BO_HANDLES:
			ret = sim_chunk_bo_handles(cs, chunk);
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

static int sim_chunk_depend(struct sim_cs *cs, const struct sim_chunk *chunk)
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

static int sim_chunk_wait(struct sim_cs *cs, u32 handle, u64 point, u64 flags)
{
	struct dma_fence *fence;
	int ret;

	ret = drm_syncobj_find_fence(cs->file, handle, point, flags, &fence);
	return ret ?: drm_sched_job_add_dependency(&cs->job->base, fence);
}

static int sim_chunk_signal(struct sim_cs *cs, u32 handle, u64 point)
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

static int sim_chunk_syncobjs(struct sim_cs *cs, const struct sim_chunk *chunk)
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
			ret = sim_chunk_wait(cs, sem[i].handle, 0, 0);
		else if (wait)
			ret = sim_chunk_wait(cs, timeline[i].handle, timeline[i].point,
					     timeline[i].flags);
		else if (is_sem)
			ret = sim_chunk_signal(cs, sem[i].handle, 0);
		else
			ret = sim_chunk_signal(cs, timeline[i].handle, timeline[i].point);
	}
	return ret;
}

/* Second pass, with a job: what it waits for, and who waits for it. */
int sim_chunks_sync(struct sim_cs *cs)
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
			ret = sim_chunk_depend(cs, chunk);
			break;
		case AMDGPU_CHUNK_ID_SYNCOBJ_IN:
		case AMDGPU_CHUNK_ID_SYNCOBJ_OUT:
		case AMDGPU_CHUNK_ID_SYNCOBJ_TIMELINE_WAIT:
		case AMDGPU_CHUNK_ID_SYNCOBJ_TIMELINE_SIGNAL:
			ret = sim_chunk_syncobjs(cs, chunk);
			break;
		}
	}
	return ret;
}
