// SPDX-License-Identifier: GPL-2.0
/* BO lists: the buffers that a submission uses, by handle or with the CS. */
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/uaccess.h>

#include "sim.h"

static void sim_list_release(struct kref *ref)
{
	struct sim_list *list = container_of(ref, struct sim_list, ref);
	u32 i;

	for (i = 0; i < list->count; i++)
		drm_gem_object_put(list->obj[i]);
	kvfree(list);
}

void sim_list_put(struct sim_list *list)
{
	if (list)
		kref_put(&list->ref, sim_list_release);
}

static int sim_list_cmp(const void *a, const void *b)
{
	const void *x = *(const void * const *)a, *y = *(const void * const *)b;

	return x < y ? -1 : x > y;
}

/* Each BO once: they are locked together. */
static void sim_list_unique(struct sim_list *list)
{
	u32 i, n = 0;

	sort(list->obj, list->count, sizeof(list->obj[0]), sim_list_cmp, NULL);
	for (i = 0; i < list->count; i++) {
		if (n && list->obj[n - 1] == list->obj[i])
			drm_gem_object_put(list->obj[i]);
		else
			list->obj[n++] = list->obj[i];
	}
	list->count = n;
}

struct sim_list *sim_list_create(struct drm_file *file, const struct drm_amdgpu_bo_list_in *in)
{
	u32 i, count = in->bo_number, stride = in->bo_info_size;
	struct drm_gem_object *obj;
	struct sim_list *list;
	int ret = 0;

	if (count > SIM_MAX_BOS)
		return ERR_PTR(-EINVAL);
	if (count && (stride < sizeof(u32) || stride > 1024))
		return ERR_PTR(-EINVAL);

	list = kvzalloc(struct_size(list, obj, count), GFP_KERNEL);
	if (!list)
		return ERR_PTR(-ENOMEM);
	kref_init(&list->ref);
	list->count = count;

	for (i = 0; i < count; i++) {
		u32 handle;

		if (get_user(handle, (u32 __user *)u64_to_user_ptr(in->bo_info_ptr +
								   (u64)i * stride))) {
			ret = -EFAULT;
			break;
		}
		obj = drm_gem_object_lookup(file, handle);
		if (!obj) {
			ret = -ENOENT;
			break;
		}
		list->obj[i] = obj;
	}
	if (ret) {
		list->count = i;
		sim_list_put(list);
		return ERR_PTR(ret);
	}
	sim_list_unique(list);
	return list;
}

struct sim_list *sim_list_find(struct sim_file *sfile, u32 handle)
{
	struct sim_list *list;

	xa_lock(&sfile->lists);
	list = xa_load(&sfile->lists, handle);
	if (list)
		kref_get(&list->ref);
	xa_unlock(&sfile->lists);
	return list;
}

void sim_list_close(struct sim_file *sfile)
{
	struct sim_list *list;
	unsigned long id;

	xa_for_each(&sfile->lists, id, list)
		sim_list_put(list);
	xa_destroy(&sfile->lists);
}

static int sim_list_replace(struct sim_file *sfile, u32 handle, struct sim_list *list)
{
	struct sim_list *old;

	xa_lock(&sfile->lists);
	old = xa_load(&sfile->lists, handle);
	if (old)	/* in an occupied slot this does not allocate */
		__xa_store(&sfile->lists, handle, list, GFP_ATOMIC);
	xa_unlock(&sfile->lists);
	sim_list_put(old ?: list);
	return old ? 0 : -ENOENT;
}

int sim_bo_list_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	struct sim_file *sfile = file->driver_priv;
	union drm_amdgpu_bo_list *args = data;
	u32 handle = args->in.list_handle;
	struct sim_list *list;
	int ret = 0;

	switch (args->in.operation) {
	case AMDGPU_BO_LIST_OP_CREATE:
		list = sim_list_create(file, &args->in);
		if (IS_ERR(list))
			return PTR_ERR(list);
		ret = xa_alloc(&sfile->lists, &handle, list, xa_limit_31b, GFP_KERNEL);
		if (ret)
			sim_list_put(list);
		break;
	case AMDGPU_BO_LIST_OP_DESTROY:
		sim_list_put(xa_erase(&sfile->lists, handle));
		handle = 0;
		break;
	case AMDGPU_BO_LIST_OP_UPDATE:
		list = sim_list_create(file, &args->in);
		if (IS_ERR(list))
			return PTR_ERR(list);
		ret = sim_list_replace(sfile, handle, list);
		break;
	default:
		return -EINVAL;
	}
	if (ret)
		return ret;

	memset(args, 0, sizeof(*args));
	args->out.list_handle = handle;
	return 0;
}
