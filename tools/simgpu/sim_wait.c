// SPDX-License-Identifier: GPL-2.0
/* Waiting for submissions, and turning their fences into handles. */
#include <linux/dma-fence.h>
#include <linux/file.h>
#include <linux/slab.h>
#include <linux/sync_file.h>
#include <linux/uaccess.h>

#include <drm/drm_syncobj.h>
#include <drm/drm_utils.h>

#include "sim.h"

#define SIM_MAX_FENCES 1024

/* An absolute time of CLOCK_MONOTONIC in ns, as jiffies from now. */
long sim_timeout(u64 absolute)
{
	return (s64)absolute < 0 ? MAX_SCHEDULE_TIMEOUT : drm_timeout_abs_to_jiffies(absolute);
}

int sim_wait_cs_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	union drm_amdgpu_wait_cs *args = data;
	long ret = 1, timeout = sim_timeout(args->in.timeout);
	struct dma_fence *fence;
	struct sim_ctx *ctx;

	ctx = sim_ctx_find(file->driver_priv, args->in.ctx_id);
	if (!ctx)
		return -EINVAL;
	fence = sim_ctx_fence(ctx, args->in.ip_type, args->in.ip_instance, args->in.ring,
			      args->in.handle);
	sim_ctx_done(ctx);
	if (IS_ERR(fence))
		return PTR_ERR(fence);
	if (fence) {
		ret = sim_remedy_wait(to_sim_device(drm), fence, timeout);
		if (ret > 0 && fence->error)
			ret = fence->error;
		dma_fence_put(fence);
	}
	if (ret < 0)
		return ret;

	memset(args, 0, sizeof(*args));
	args->out.status = ret == 0;
	return 0;
}

static struct dma_fence *sim_find_fence(struct sim_file *sfile, const struct drm_amdgpu_fence *f)
{
	struct sim_ctx *ctx = sim_ctx_find(sfile, f->ctx_id);
	struct dma_fence *fence;

	if (!ctx)
		return ERR_PTR(-EINVAL);
	fence = sim_ctx_fence(ctx, f->ip_type, f->ip_instance, f->ring, f->seq_no);
	sim_ctx_done(ctx);
	return fence ?: dma_fence_get_stub();
}

static long sim_wait_all(struct sim_device *sdev, struct dma_fence **fence, u32 count,
			 u64 absolute)
{
	long ret = 1;
	u32 i;

	for (i = 0; i < count; i++) {
		ret = sim_remedy_wait(sdev, fence[i], sim_timeout(absolute));
		if (ret <= 0)
			return ret;
		if (fence[i]->error)
			return fence[i]->error;
	}
	return ret;
}

static long sim_wait_any(struct sim_device *sdev, struct dma_fence **fence, u32 count,
			 u64 absolute, u32 *first)
{
	long ret;

	ret = sim_remedy_wait_any(sdev, fence, count, sim_timeout(absolute), first);
	if (ret > 0 && fence[*first]->error)
		return fence[*first]->error;
	return ret;
}

int sim_wait_fences_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	union drm_amdgpu_wait_fences *args = data;
	struct drm_amdgpu_fence __user *from = u64_to_user_ptr(args->in.fences);
	u32 n = 0, first = ~0u, count = args->in.fence_count;
	struct dma_fence **fence;
	long ret = 0;

	if (!count || count > SIM_MAX_FENCES)
		return -EINVAL;
	fence = kcalloc(count, sizeof(*fence), GFP_KERNEL);
	if (!fence)
		return -ENOMEM;
	for (n = 0; n < count; n++) {
		struct drm_amdgpu_fence f;

		if (copy_from_user(&f, from + n, sizeof(f))) {
			ret = -EFAULT;
			goto out;
		}
		fence[n] = sim_find_fence(file->driver_priv, &f);
		if (IS_ERR(fence[n])) {
			ret = PTR_ERR(fence[n]);
			goto out;
		}
	}

	if (args->in.wait_all)
		ret = sim_wait_all(to_sim_device(drm), fence, count, args->in.timeout_ns);
	else
		ret = sim_wait_any(to_sim_device(drm), fence, count, args->in.timeout_ns, &first);
	if (ret >= 0) {
		memset(args, 0, sizeof(*args));
		args->out.status = ret > 0;
		args->out.first_signaled = first;
		ret = 0;
	}
out:
	while (n--)
		dma_fence_put(fence[n]);
	kfree(fence);
	return ret;
}

static int sim_to_sync_file(struct dma_fence *fence, u32 *handle)
{
	struct sync_file *sync_file;
	int fd = get_unused_fd_flags(O_CLOEXEC);

	if (fd < 0)
		return fd;
	sync_file = sync_file_create(fence);
	if (!sync_file) {
		put_unused_fd(fd);
		return -ENOMEM;
	}
	fd_install(fd, sync_file->file);
	*handle = fd;
	return 0;
}

static int sim_to_syncobj(struct drm_file *file, struct dma_fence *fence, bool as_fd, u32 *handle)
{
	struct drm_syncobj *syncobj;
	int ret, fd;

	ret = drm_syncobj_create(&syncobj, 0, fence);
	if (ret)
		return ret;
	if (as_fd) {
		ret = drm_syncobj_get_fd(syncobj, &fd);
		*handle = fd;
	} else {
		ret = drm_syncobj_get_handle(file, syncobj, handle);
	}
	drm_syncobj_put(syncobj);
	return ret;
}

int sim_fence_to_handle_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	union drm_amdgpu_fence_to_handle *args = data;
	struct dma_fence *fence;
	u32 handle = 0;
	int ret;

	fence = sim_find_fence(file->driver_priv, &args->in.fence);
	if (IS_ERR(fence))
		return PTR_ERR(fence);

	switch (args->in.what) {
	case AMDGPU_FENCE_TO_HANDLE_GET_SYNCOBJ:
		ret = sim_to_syncobj(file, fence, false, &handle);
		break;
	case AMDGPU_FENCE_TO_HANDLE_GET_SYNCOBJ_FD:
		ret = sim_to_syncobj(file, fence, true, &handle);
		break;
	case AMDGPU_FENCE_TO_HANDLE_GET_SYNC_FILE_FD:
		ret = sim_to_sync_file(fence, &handle);
		break;
	default:
		ret = -EINVAL;
	}
	dma_fence_put(fence);
	if (!ret)
		args->out.handle = handle;
	return ret;
}
