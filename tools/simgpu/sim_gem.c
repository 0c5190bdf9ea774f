// SPDX-License-Identifier: GPL-2.0
/*
 * Buffer objects: shmem for both VRAM and GTT, pinned and mapped by the kernel
 * from creation on, so that execution never has to.
 */
#include <linux/dma-resv.h>
#include <linux/iosys-map.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include <drm/drm_prime.h>

#include "sim.h"

#define SIM_DOMAINS	(AMDGPU_GEM_DOMAIN_CPU | AMDGPU_GEM_DOMAIN_GTT | AMDGPU_GEM_DOMAIN_VRAM)
#define SIM_GEM_FLAGS	(AMDGPU_GEM_CREATE_CPU_ACCESS_REQUIRED | AMDGPU_GEM_CREATE_NO_CPU_ACCESS | \
			 AMDGPU_GEM_CREATE_CPU_GTT_USWC | AMDGPU_GEM_CREATE_VRAM_CLEARED | \
			 AMDGPU_GEM_CREATE_VRAM_CONTIGUOUS | AMDGPU_GEM_CREATE_VM_ALWAYS_VALID | \
			 AMDGPU_GEM_CREATE_EXPLICIT_SYNC | \
			 AMDGPU_GEM_CREATE_VRAM_WIPE_ON_RELEASE | AMDGPU_GEM_CREATE_DISCARDABLE | \
			 AMDGPU_GEM_CREATE_COHERENT | AMDGPU_GEM_CREATE_UNCACHED | \
			 AMDGPU_GEM_CREATE_EXT_COHERENT)

#define SIM_PITCH	256		/* bytes that a row of a dumb buffer is a multiple of */

static atomic64_t *sim_heap(struct drm_device *drm, u64 domains, u64 *limit)
{
	struct sim_device *sdev = to_sim_device(drm);

	if (domains & AMDGPU_GEM_DOMAIN_VRAM) {
		*limit = sdev->vram_size;
		return &sdev->vram_used;
	}
	*limit = sdev->gtt_size;
	return &sdev->gtt_used;
}

static int sim_bo_charge(struct sim_bo *bo, u64 size)
{
	u64 limit;
	atomic64_t *used = sim_heap(bo->base.base.dev, bo->domains, &limit);

	if (atomic64_add_return(size, used) > limit) {
		atomic64_sub(size, used);
		return -ENOMEM;
	}
	bo->accounted = size;
	return 0;
}

static void sim_bo_free(struct drm_gem_object *obj)
{
	struct sim_bo *bo = to_sim_bo(obj);
	u64 limit;

	if (bo->user)
		sim_user_free(bo);
	if (bo->vaddr) {
		struct iosys_map map = IOSYS_MAP_INIT_VADDR(bo->vaddr);

		dma_resv_lock(obj->resv, NULL);
		drm_gem_shmem_vunmap(&bo->base, &map);
		dma_resv_unlock(obj->resv);
	}
	if (bo->accounted)
		atomic64_sub(bo->accounted, sim_heap(obj->dev, bo->domains, &limit));
	mutex_destroy(&bo->meta_lock);
	drm_gem_shmem_free(&bo->base);
}

static void sim_bo_close(struct drm_gem_object *obj, struct drm_file *file)
{
	struct sim_file *sfile = file->driver_priv;

	sim_vm_forget(sfile->vm, to_sim_bo(obj));
}

/* A process's memory stays its own (as amdgpu_gem_object_open and _prime_export). */
static int sim_bo_open(struct drm_gem_object *obj, struct drm_file *file)
{
	return sim_user_foreign(to_sim_bo(obj)) ? -EPERM : 0;
}

static struct dma_buf *sim_bo_export(struct drm_gem_object *obj, int flags)
{
	return to_sim_bo(obj)->user ? ERR_PTR(-EPERM) : drm_gem_prime_export(obj, flags);
}

static int sim_bo_mmap(struct drm_gem_object *obj, struct vm_area_struct *vma)
{
	return to_sim_bo(obj)->user ? -EPERM : drm_gem_shmem_object_mmap(obj, vma);
}

static const struct drm_gem_object_funcs sim_bo_funcs = {
	.free = sim_bo_free,
	.open = sim_bo_open,
	.close = sim_bo_close,
	.export = sim_bo_export,
	.print_info = drm_gem_shmem_object_print_info,
	.pin = drm_gem_shmem_object_pin,
	.unpin = drm_gem_shmem_object_unpin,
	.get_sg_table = drm_gem_shmem_object_get_sg_table,
	.vmap = drm_gem_shmem_object_vmap,
	.vunmap = drm_gem_shmem_object_vunmap,
	.mmap = sim_bo_mmap,
	.vm_ops = &drm_gem_shmem_vm_ops,
};

struct drm_gem_object *sim_gem_create_object(struct drm_device *drm, size_t size)
{
	struct sim_bo *bo = kzalloc(sizeof(*bo), GFP_KERNEL);

	if (!bo)
		return ERR_PTR(-ENOMEM);
	mutex_init(&bo->meta_lock);
	bo->domains = AMDGPU_GEM_DOMAIN_GTT;	/* of imports */
	bo->base.base.funcs = &sim_bo_funcs;
	return &bo->base.base;
}

/* Give the BO a kernel address, once, for as long as it lives. */
int sim_bo_map(struct sim_bo *bo)
{
	struct iosys_map map;
	int ret;

	ret = dma_resv_lock_interruptible(bo->base.base.resv, NULL);
	if (ret)
		return ret;
	if (!bo->vaddr) {
		ret = drm_gem_shmem_vmap(&bo->base, &map);
		if (!ret)
			bo->vaddr = map.vaddr;
	}
	dma_resv_unlock(bo->base.base.resv);
	return ret;
}

/* With map, its memory is there from now on; else it is somebody else's, to come. */
struct sim_bo *sim_bo_create(struct drm_device *drm, u64 size, u64 domains, u64 flags, bool map)
{
	struct drm_gem_shmem_object *shmem;
	struct sim_bo *bo;
	u64 limit;
	int ret;

	/* before a page is touched */
	sim_heap(drm, domains, &limit);
	if (size > limit)
		return ERR_PTR(-ENOMEM);

	shmem = drm_gem_shmem_create(drm, size);
	if (IS_ERR(shmem))
		return ERR_CAST(shmem);
	bo = to_sim_bo(&shmem->base);
	bo->domains = domains;
	bo->flags = flags;
	ret = sim_bo_charge(bo, shmem->base.size);
	if (!ret && map)
		ret = sim_bo_map(bo);
	if (ret) {
		drm_gem_object_put(&shmem->base);
		return ERR_PTR(ret);
	}
	return bo;
}

int sim_gem_create_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	union drm_amdgpu_gem_create *args = data;
	struct sim_file *sfile = file->driver_priv;
	u64 domains = args->in.domains;
	u32 handle;
	struct sim_bo *bo;
	int ret;

	if (!args->in.bo_size || args->in.domain_flags & ~SIM_GEM_FLAGS)
		return -EINVAL;
	if (!domains || domains & ~SIM_DOMAINS)
		return -EINVAL;
	if (args->in.alignment && !is_power_of_2(args->in.alignment))
		return -EINVAL;

	sim_vm_reap(sfile->vm);
	bo = sim_bo_create(drm, args->in.bo_size, domains, args->in.domain_flags, true);
	if (IS_ERR(bo))
		return PTR_ERR(bo);
	ret = drm_gem_handle_create(file, &bo->base.base, &handle);
	drm_gem_object_put(&bo->base.base);
	if (ret)
		return ret;

	memset(args, 0, sizeof(*args));
	args->out.handle = handle;
	return 0;
}

int sim_gem_dumb_create(struct drm_file *file, struct drm_device *drm,
			struct drm_mode_create_dumb *args)
{
	struct sim_bo *bo;
	int ret;

	args->pitch = ALIGN(args->width * DIV_ROUND_UP(args->bpp, 8), SIM_PITCH);
	args->size = (u64)args->pitch * args->height;
	bo = sim_bo_create(drm, args->size, AMDGPU_GEM_DOMAIN_VRAM,
			   AMDGPU_GEM_CREATE_CPU_ACCESS_REQUIRED, true);
	if (IS_ERR(bo))
		return PTR_ERR(bo);
	ret = drm_gem_handle_create(file, &bo->base.base, &args->handle);
	drm_gem_object_put(&bo->base.base);
	return ret;
}

int sim_gem_mmap_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	union drm_amdgpu_gem_mmap *args = data;
	struct drm_gem_object *obj;
	int ret = 0;

	obj = drm_gem_object_lookup(file, args->in.handle);
	if (!obj)
		return -ENOENT;
	if (to_sim_bo(obj)->user || to_sim_bo(obj)->flags & AMDGPU_GEM_CREATE_NO_CPU_ACCESS)
		ret = -EPERM;
	else
		args->out.addr_ptr = drm_vma_node_offset_addr(&obj->vma_node);
	drm_gem_object_put(obj);
	return ret;
}

int sim_gem_wait_idle_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	union drm_amdgpu_gem_wait_idle *args = data;
	struct drm_gem_object *obj;
	u32 domain;
	long ret;

	if (args->in.flags)
		return -EINVAL;
	obj = drm_gem_object_lookup(file, args->in.handle);
	if (!obj)
		return -ENOENT;
	domain = to_sim_bo(obj)->domains;
	ret = dma_resv_wait_timeout(obj->resv, DMA_RESV_USAGE_READ, true,
				    sim_timeout(args->in.timeout));
	drm_gem_object_put(obj);
	if (ret < 0)
		return ret;

	memset(args, 0, sizeof(*args));
	args->out.status = ret == 0;
	args->out.domain = domain;
	return 0;
}

int sim_gem_metadata_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	struct drm_amdgpu_gem_metadata *args = data;
	struct drm_gem_object *obj;
	struct sim_bo *bo;
	int ret = 0;

	obj = drm_gem_object_lookup(file, args->handle);
	if (!obj)
		return -ENOENT;
	bo = to_sim_bo(obj);

	mutex_lock(&bo->meta_lock);
	switch (args->op) {
	case AMDGPU_GEM_METADATA_OP_GET_METADATA:
		args->data.flags = bo->meta_flags;
		args->data.tiling_info = bo->tiling;
		args->data.data_size_bytes = bo->meta_size;
		memcpy(args->data.data, bo->meta, sizeof(bo->meta));
		break;
	case AMDGPU_GEM_METADATA_OP_SET_METADATA:
		if (args->data.data_size_bytes > sizeof(bo->meta)) {
			ret = -EINVAL;
			break;
		}
		bo->meta_flags = args->data.flags;
		bo->tiling = args->data.tiling_info;
		bo->meta_size = args->data.data_size_bytes;
		memset(bo->meta, 0, sizeof(bo->meta));
		memcpy(bo->meta, args->data.data, bo->meta_size);
		break;
	default:
		ret = -EINVAL;
	}
	mutex_unlock(&bo->meta_lock);
	drm_gem_object_put(obj);
	return ret;
}

int sim_gem_op_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	struct drm_amdgpu_gem_op *args = data;
	struct drm_amdgpu_gem_create_in info = {};
	struct drm_gem_object *obj;
	struct sim_bo *bo;
	int ret = 0;

	obj = drm_gem_object_lookup(file, args->handle);
	if (!obj)
		return -ENOENT;
	bo = to_sim_bo(obj);

	switch (args->op) {
	case AMDGPU_GEM_OP_GET_GEM_CREATE_INFO:
		info.bo_size = obj->size;
		info.alignment = PAGE_SIZE;
		info.domains = bo->domains;
		info.domain_flags = bo->flags;
		if (copy_to_user(u64_to_user_ptr(args->value), &info, sizeof(info)))
			ret = -EFAULT;
		break;
	case AMDGPU_GEM_OP_SET_PLACEMENT:
		/* a hint to the memory manager; nothing moves here */
		if (!(args->value & SIM_DOMAINS) || args->value & ~(u64)SIM_DOMAINS)
			ret = -EINVAL;
		break;
	default:
		ret = -EINVAL;
	}
	drm_gem_object_put(obj);
	return ret;
}
