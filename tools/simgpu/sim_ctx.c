// SPDX-License-Identifier: GPL-2.0
/*
 * Contexts. Each has one scheduler entity per IP and ring index, made at its
 * first use; an entity of several rings is balanced over those that the
 * debugfs sched_mask leaves. A context whose job hung is guilty, for good.
 */
#include <linux/capability.h>
#include <linux/dma-fence.h>
#include <linux/overflow.h>
#include <linux/slab.h>

#include "sim.h"

static void sim_ctx_release(struct kref *ref)
{
	struct sim_ctx *ctx = container_of(ref, struct sim_ctx, ref);

	mutex_destroy(&ctx->lock);
	kfree(ctx);
}

void sim_ctx_put(struct sim_ctx *ctx)
{
	kref_put(&ctx->ref, sim_ctx_release);
}

static void sim_entity_free(struct sim_entity *entity)
{
	u32 i;

	for (i = 0; i < SIM_CTX_FENCES; i++)
		dma_fence_put(entity->fence[i]);
	mutex_destroy(&entity->lock);
	kfree(entity);
}

/* No user is left: flush and end the entities. Jobs may still execute. */
static void sim_ctx_unused(struct kref *users)
{
	struct sim_ctx *ctx = container_of(users, struct sim_ctx, users);
	long timeout = MAX_WAIT_SCHED_ENTITY_Q_EMPTY;
	struct sim_entity *entity;
	u32 ip, i;

	for (ip = 0; ip < SIM_NUM_IPS; ip++) {
		for (i = 0; i < SIM_MAX_PER_IP; i++) {
			entity = ctx->entity[ip][i];
			if (!entity)
				continue;
			timeout = drm_sched_entity_flush(&entity->base, timeout);
			drm_sched_entity_fini(&entity->base);
			sim_entity_free(entity);
		}
	}
	sim_ctx_put(ctx);
}

void sim_ctx_done(struct sim_ctx *ctx)
{
	kref_put(&ctx->users, sim_ctx_unused);
}

struct sim_ctx *sim_ctx_find(struct sim_file *sfile, u32 id)
{
	struct sim_ctx *ctx;

	xa_lock(&sfile->ctxs);
	ctx = xa_load(&sfile->ctxs, id);
	if (ctx)
		kref_get(&ctx->users);
	xa_unlock(&sfile->ctxs);
	return ctx;
}

void sim_ctx_close(struct sim_file *sfile)
{
	struct sim_ctx *ctx;
	unsigned long id;

	xa_for_each(&sfile->ctxs, id, ctx)
		sim_ctx_done(ctx);
	xa_destroy(&sfile->ctxs);
}

static u32 sim_entity_list(struct sim_device *sdev, struct sim_entity *entity, u32 ip, u32 mask)
{
	struct sim_core *core = sdev->core;
	struct sim_ring *ring;
	u32 n = 0;

	for (ring = core->ring; ring < core->ring + SIM_NUM_RINGS; ring++)
		if (ring->ip == ip && mask & BIT(ring->ip_index))
			entity->scheds[n++] = &ring->sched;
	entity->mask = mask;
	return n;
}

/* Follow a changed sched_mask. The caller holds entity->lock. */
void sim_entity_pin(struct sim_device *sdev, struct sim_entity *entity, u32 ip)
{
	u32 mask = READ_ONCE(sdev->sched_mask[ip]);

	if (mask != entity->mask) {
		u32 n = sim_entity_list(sdev, entity, ip, mask);

		drm_sched_entity_modify_sched(&entity->base, entity->scheds, n);
	}
}

static struct sim_entity *sim_entity_create(struct sim_device *sdev, struct sim_ctx *ctx, u32 ip)
{
	struct sim_entity *entity = kzalloc(sizeof(*entity), GFP_KERNEL);
	u32 n;
	int ret;

	if (!entity)
		return ERR_PTR(-ENOMEM);
	n = sim_entity_list(sdev, entity, ip, READ_ONCE(sdev->sched_mask[ip]));
	ret = drm_sched_entity_init(&entity->base, ctx->priority, entity->scheds, n, &ctx->guilty);
	if (ret) {
		kfree(entity);
		return ERR_PTR(ret);
	}
	mutex_init(&entity->lock);
	spin_lock_init(&entity->fence_lock);
	entity->seq = 1;
	return entity;
}

/* The entity for an address of the uAPI; with sdev it is made if need be. */
struct sim_entity *sim_ctx_entity(struct sim_device *sdev, struct sim_ctx *ctx,
				  u32 ip, u32 instance, u32 ring)
{
	struct sim_entity *entity;

	if (ip >= SIM_NUM_IPS || instance || ring >= SIM_MAX_PER_IP ||
	    !(sim_ip_rings(ip) & BIT(ring)))
		return ERR_PTR(-EINVAL);

	mutex_lock(&ctx->lock);
	entity = ctx->entity[ip][ring];
	if (!entity && sdev) {
		entity = sim_entity_create(sdev, ctx, ip);
		if (!IS_ERR(entity))
			ctx->entity[ip][ring] = entity;
	}
	mutex_unlock(&ctx->lock);
	return entity ?: ERR_PTR(-EINVAL);
}

/*
 * The fence of a submission: NULL if it ended long ago, -EINVAL if it never
 * was. Handle ~0 is the last one.
 */
struct dma_fence *sim_ctx_fence(struct sim_ctx *ctx, u32 ip, u32 instance, u32 ring, u64 handle)
{
	struct sim_entity *entity = sim_ctx_entity(NULL, ctx, ip, instance, ring);
	struct dma_fence *fence = NULL;

	if (IS_ERR(entity)) {
		/* nothing was submitted there yet */
		if (ip < SIM_NUM_IPS && !instance && ring < SIM_MAX_PER_IP &&
		    sim_ip_rings(ip) & BIT(ring) && (handle == ~0ull || !handle))
			return NULL;
		return ERR_CAST(entity);
	}
	spin_lock(&entity->fence_lock);
	if (handle == ~0ull)
		handle = entity->seq - 1;
	if (handle >= entity->seq)
		fence = ERR_PTR(-EINVAL);
	else if (handle && handle + SIM_CTX_FENCES >= entity->seq)
		fence = dma_fence_get(entity->fence[handle % SIM_CTX_FENCES]);
	spin_unlock(&entity->fence_lock);
	return fence;
}

static int sim_ctx_priority(struct drm_file *file, s32 asked, enum drm_sched_priority *priority)
{
	switch (asked) {
	case AMDGPU_CTX_PRIORITY_VERY_LOW:
	case AMDGPU_CTX_PRIORITY_LOW:
		*priority = DRM_SCHED_PRIORITY_LOW;
		return 0;
	case AMDGPU_CTX_PRIORITY_HIGH:
	case AMDGPU_CTX_PRIORITY_VERY_HIGH:
		*priority = DRM_SCHED_PRIORITY_HIGH;
		return capable(CAP_SYS_NICE) || drm_is_current_master(file) ? 0 : -EACCES;
	default:	/* old userspace leaves garbage here */
		*priority = DRM_SCHED_PRIORITY_NORMAL;
		return 0;
	}
}

static int sim_ctx_alloc(struct sim_device *sdev, struct drm_file *file, s32 asked, u32 *id)
{
	struct sim_file *sfile = file->driver_priv;
	enum drm_sched_priority priority;
	struct sim_ctx *ctx;
	int ret;

	ret = sim_ctx_priority(file, asked, &priority);
	if (ret)
		return ret;
	ctx = kzalloc(sizeof(*ctx), GFP_KERNEL);
	if (!ctx)
		return -ENOMEM;
	kref_init(&ctx->ref);
	kref_init(&ctx->users);
	mutex_init(&ctx->lock);
	ctx->priority = priority;
	ctx->reset_counter = atomic_read(&sdev->reset_counter);
	ctx->reset_seen = ctx->reset_counter;
	ret = xa_alloc(&sfile->ctxs, id, ctx, XA_LIMIT(1, 4096), GFP_KERNEL);
	if (ret)
		sim_ctx_done(ctx);
	return ret;
}

static int sim_ctx_query(struct sim_device *sdev, struct sim_file *sfile, u32 op,
			 union drm_amdgpu_ctx *args)
{
	struct sim_ctx *ctx = sim_ctx_find(sfile, args->in.ctx_id);
	int resets = atomic_read(&sdev->reset_counter);

	if (!ctx)
		return -EINVAL;
	memset(args, 0, sizeof(*args));
	if (op == AMDGPU_CTX_OP_QUERY_STATE) {
		if (ctx->reset_seen == resets)
			args->out.state.reset_status = AMDGPU_CTX_NO_RESET;
		else if (atomic_read(&ctx->guilty))
			args->out.state.reset_status = AMDGPU_CTX_GUILTY_RESET;
		else
			args->out.state.reset_status = AMDGPU_CTX_INNOCENT_RESET;
		ctx->reset_seen = resets;
	} else {
		bool blame = sim_fault(sdev, SIM_FAULT_BLAME) && ctx->reset_counter != resets;

		if (ctx->reset_counter != resets)
			args->out.state.flags |= AMDGPU_CTX_QUERY2_FLAGS_RESET;
		if (atomic_read(&ctx->guilty) || blame)
			args->out.state.flags |= AMDGPU_CTX_QUERY2_FLAGS_GUILTY;
		if (READ_ONCE(sdev->in_reset))
			args->out.state.flags |= AMDGPU_CTX_QUERY2_FLAGS_RESET_IN_PROGRESS;
	}
	sim_ctx_done(ctx);
	return 0;
}

int sim_ctx_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	struct sim_device *sdev = to_sim_device(drm);
	struct sim_file *sfile = file->driver_priv;
	union drm_amdgpu_ctx *args = data;
	struct sim_ctx *ctx;
	u32 id;
	int ret;

	if (args->in.flags)
		return -EINVAL;

	switch (args->in.op) {
	case AMDGPU_CTX_OP_ALLOC_CTX:
		ret = sim_ctx_alloc(sdev, file, args->in.priority, &id);
		if (ret)
			return ret;
		memset(args, 0, sizeof(*args));
		args->out.alloc.ctx_id = id;
		return 0;
	case AMDGPU_CTX_OP_FREE_CTX:
		ctx = xa_erase(&sfile->ctxs, args->in.ctx_id);
		if (!ctx)
			return -EINVAL;
		sim_ctx_done(ctx);
		return 0;
	case AMDGPU_CTX_OP_QUERY_STATE:
	case AMDGPU_CTX_OP_QUERY_STATE2:
		return sim_ctx_query(sdev, sfile, args->in.op, args);
	default:
		return -EINVAL;
	}
}
