// SPDX-License-Identifier: GPL-2.0
/* GEM_VA: what userspace may ask of its GPU virtual address space. */
#include <linux/overflow.h>

#include "sim.h"

#define SIM_VA_FLAGS	(AMDGPU_VM_DELAY_UPDATE | AMDGPU_VM_PAGE_READABLE | \
			 AMDGPU_VM_PAGE_WRITEABLE | AMDGPU_VM_PAGE_EXECUTABLE | \
			 AMDGPU_VM_MTYPE_MASK | AMDGPU_VM_PAGE_NOALLOC)

static int sim_va_check(const struct drm_amdgpu_gem_va *args, u64 *va)
{
	u64 end;

	if (args->va_address < SIM_VA_BOTTOM)
		return -EINVAL;
	if (args->va_address >= SIM_VA_HOLE && args->va_address < SIM_VA_HIGH)
		return -EINVAL;
	*va = args->va_address & SIM_VA_MASK;
	if (!PAGE_ALIGNED(*va) || !PAGE_ALIGNED(args->map_size) ||
	    !PAGE_ALIGNED(args->offset_in_bo))
		return -EINVAL;
	if (args->operation == AMDGPU_VA_OP_UNMAP)
		return 0;
	if (!args->map_size || check_add_overflow(*va, args->map_size, &end) || end > SIM_VA_TOP)
		return -EINVAL;
	/* one mapping does not cross the hole */
	return *va < SIM_VA_HOLE && end > SIM_VA_HOLE ? -EINVAL : 0;
}

static int sim_va_map(struct sim_vm *vm, struct sim_bo *bo,
		      const struct drm_amdgpu_gem_va *args, u64 va)
{
	u32 flags = args->flags;
	u64 end;
	int ret;

	if (check_add_overflow(args->offset_in_bo, args->map_size, &end) ||
	    end > bo->base.base.size)
		return -EINVAL;
	ret = sim_bo_map(bo);
	if (ret)
		return ret;
	if (sim_user_readonly(bo))
		flags &= ~AMDGPU_VM_PAGE_WRITEABLE;
	return sim_vm_map(vm, bo, va, args->map_size, args->offset_in_bo, flags,
			  args->operation == AMDGPU_VA_OP_REPLACE);
}

int sim_gem_va_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	struct sim_file *sfile = file->driver_priv;
	const struct drm_amdgpu_gem_va *args = data;
	struct drm_gem_object *obj;
	u64 va;
	int ret;

	if (args->flags & ~SIM_VA_FLAGS)
		return -EINVAL;
	ret = sim_va_check(args, &va);
	if (ret)
		return ret;

	if (args->operation == AMDGPU_VA_OP_CLEAR)
		return sim_vm_clear(sfile->vm, va, args->map_size);

	obj = drm_gem_object_lookup(file, args->handle);
	if (!obj)
		return -ENOENT;
	switch (args->operation) {
	case AMDGPU_VA_OP_MAP:
	case AMDGPU_VA_OP_REPLACE:
		ret = sim_va_map(sfile->vm, to_sim_bo(obj), args, va);
		break;
	case AMDGPU_VA_OP_UNMAP:
		ret = sim_vm_unmap(sfile->vm, to_sim_bo(obj), va);
		break;
	default:
		ret = -EINVAL;
	}
	drm_gem_object_put(obj);
	return ret;
}
