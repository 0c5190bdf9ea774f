// SPDX-License-Identifier: GPL-2.0
/*
 * Buffers made of a process's own memory (userptr).
 *
 * Before the process's pages may change under such a BO, an MMU notifier waits
 * for its fences, uninterruptibly, as amdgpu's does: here munmap(2), fork(2) and
 * reclaim depend on recovery. Afterwards the BO is stale, and the next
 * submission that uses it takes the pages anew, before it takes any lock.
 *
 * Pages are pinned, so that what a bad client forgot to list stays harmless.
 */
#include <linux/dma-resv.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "sim.h"

#define SIM_USER_FLAGS	(AMDGPU_GEM_USERPTR_READONLY | AMDGPU_GEM_USERPTR_ANONONLY | \
			 AMDGPU_GEM_USERPTR_VALIDATE | AMDGPU_GEM_USERPTR_REGISTER)

struct sim_user {
	struct sim_bo *bo;
	struct mm_struct *mm;		/* only to compare with */
	struct mmu_interval_notifier notifier;
	bool registered;
	u32 flags;
	unsigned long addr;
	unsigned long count;		/* of pages */
	struct mutex lock;		/* one process at a time takes them */
	struct page **pages;
	unsigned long seq;		/* of the notifier, when they were taken */
	spinlock_t swap_lock;		/* bo->vaddr: taken by executing threads */
};

static bool sim_user_invalidate(struct mmu_interval_notifier *notifier,
				const struct mmu_notifier_range *range, unsigned long seq)
{
	struct sim_user *user = container_of(notifier, struct sim_user, notifier);
	struct drm_gem_object *obj = &user->bo->base.base;
	struct sim_device *sdev = to_sim_device(obj->dev);

	if (!mmu_notifier_range_blockable(range))
		return false;
	mutex_lock(&sdev->notifier_lock);
	mmu_interval_set_seq(notifier, seq);
	dma_resv_wait_timeout(obj->resv, DMA_RESV_USAGE_BOOKKEEP, false, MAX_SCHEDULE_TIMEOUT);
	mutex_unlock(&sdev->notifier_lock);
	return true;
}

static const struct mmu_interval_notifier_ops sim_user_ops = {
	.invalidate = sim_user_invalidate,
};

/* Executing threads access a BO's memory between these. */
void sim_user_begin_access(struct sim_bo *bo)
{
	if (bo->user)
		spin_lock(&bo->user->swap_lock);
}

void sim_user_end_access(struct sim_bo *bo)
{
	if (bo->user)
		spin_unlock(&bo->user->swap_lock);
}

bool sim_user_readonly(const struct sim_bo *bo)
{
	return bo->user && bo->user->flags & AMDGPU_GEM_USERPTR_READONLY;
}

/* Whether it is another process's than ours. */
bool sim_user_foreign(const struct sim_bo *bo)
{
	return bo->user && bo->user->mm != current->mm;
}

static int sim_user_check_anon(const struct sim_user *user)
{
	unsigned long end = user->addr + (user->count << PAGE_SHIFT);
	struct mm_struct *mm = current->mm;
	struct vm_area_struct *vma;
	int ret = 0;

	VMA_ITERATOR(vmi, mm, user->addr);
	mmap_read_lock(mm);
	for_each_vma_range(vmi, vma, end)
		if (vma->vm_file)
			ret = -EPERM;
	mmap_read_unlock(mm);
	return ret;
}

static void sim_user_put_pages(struct sim_user *user, struct page **pages, void *vaddr)
{
	if (vaddr)
		vunmap(vaddr);
	if (pages)
		unpin_user_pages_dirty_lock(pages, user->count, !sim_user_readonly(user->bo));
	kvfree(pages);
}

static int sim_user_pin(struct sim_user *user, struct page **pages)
{
	u32 flags = FOLL_LONGTERM | (sim_user_readonly(user->bo) ? 0 : FOLL_WRITE);
	unsigned long done = 0;

	while (done < user->count) {
		int n = pin_user_pages_fast(user->addr + (done << PAGE_SHIFT),
					    min(user->count - done, 1ul << 16), flags,
					    pages + done);

		if (n <= 0) {
			unpin_user_pages(pages, done);
			return n ?: -EFAULT;
		}
		done += n;
	}
	return 0;
}

/* Under user->lock: take the pages as they are now, and give up those from before. */
static int sim_user_take(struct sim_user *user)
{
	struct page **pages, **old_pages;
	struct sim_bo *bo = user->bo;
	void *vaddr, *old;
	int ret;

	if (user->flags & AMDGPU_GEM_USERPTR_ANONONLY) {
		ret = sim_user_check_anon(user);
		if (ret)
			return ret;
	}
	pages = kvmalloc_array(user->count, sizeof(*pages), GFP_KERNEL);
	if (!pages)
		return -ENOMEM;
	ret = sim_user_pin(user, pages);
	if (ret) {
		kvfree(pages);
		return ret;
	}
	vaddr = vmap(pages, user->count, VM_MAP, PAGE_KERNEL);
	if (!vaddr) {
		sim_user_put_pages(user, pages, NULL);
		return -ENOMEM;
	}

	spin_lock(&user->swap_lock);
	old = bo->vaddr;
	bo->vaddr = vaddr;
	spin_unlock(&user->swap_lock);
	old_pages = user->pages;
	user->pages = pages;
	sim_user_put_pages(user, old_pages, old);
	return 0;
}

/* Before a submission's locks: have the pages that are the process's now. */
int sim_user_refresh(struct sim_bo *bo)
{
	struct sim_user *user = bo->user;
	unsigned long seq;
	int ret;

	if (!user || !user->registered)
		return 0;
	if (sim_user_foreign(bo))
		return -EPERM;
	ret = mutex_lock_interruptible(&user->lock);
	if (ret)
		return ret;
	seq = mmu_interval_read_begin(&user->notifier);
	if (seq != user->seq) {
		ret = sim_user_take(user);
		if (!ret)
			WRITE_ONCE(user->seq, seq);
	}
	mutex_unlock(&user->lock);
	return ret;
}

/* Under notifier_lock: did the process's memory change since? */
bool sim_user_stale(struct sim_bo *bo)
{
	struct sim_user *user = bo->user;

	return user && user->registered &&
	       mmu_interval_read_retry(&user->notifier, READ_ONCE(user->seq));
}

/* The BO goes. */
void sim_user_free(struct sim_bo *bo)
{
	struct sim_user *user = bo->user;

	if (user->registered)
		mmu_interval_notifier_remove(&user->notifier);
	sim_user_put_pages(user, user->pages, bo->vaddr);
	bo->vaddr = NULL;
	mmdrop(user->mm);
	mutex_destroy(&user->lock);
	kfree(user);
	bo->user = NULL;
}

static int sim_user_init(struct sim_bo *bo, const struct drm_amdgpu_gem_userptr *args)
{
	struct sim_user *user = kzalloc(sizeof(*user), GFP_KERNEL);
	int ret;

	if (!user)
		return -ENOMEM;
	user->bo = bo;
	user->mm = current->mm;
	mmgrab(user->mm);
	user->flags = args->flags;
	user->addr = args->addr;
	user->count = args->size >> PAGE_SHIFT;
	mutex_init(&user->lock);
	spin_lock_init(&user->swap_lock);
	bo->user = user;

	if (args->flags & AMDGPU_GEM_USERPTR_REGISTER) {
		ret = mmu_interval_notifier_insert(&user->notifier, current->mm, args->addr,
						   args->size, &sim_user_ops);
		if (ret)
			return ret;
		user->registered = true;
		user->seq = mmu_interval_read_begin(&user->notifier);
	}
	mutex_lock(&user->lock);
	ret = sim_user_take(user);
	mutex_unlock(&user->lock);
	return ret;
}

/* As amdgpu_gem_userptr_ioctl(), but always with AMDGPU_GEM_USERPTR_VALIDATE. */
int sim_gem_userptr_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	struct drm_amdgpu_gem_userptr *args = data;
	struct sim_file *sfile = file->driver_priv;
	struct sim_bo *bo;
	int ret;

	if (offset_in_page(args->addr | args->size) || !args->size ||
	    args->flags & ~SIM_USER_FLAGS)
		return -EINVAL;
	if (!access_ok((void __user *)(uintptr_t)args->addr, args->size))
		return -EFAULT;
	if (!(args->flags & AMDGPU_GEM_USERPTR_READONLY) &&
	    !(args->flags & AMDGPU_GEM_USERPTR_REGISTER))
		return -EACCES;

	sim_vm_reap(sfile->vm);
	bo = sim_bo_create(drm, args->size, AMDGPU_GEM_DOMAIN_GTT, 0, false);
	if (IS_ERR(bo))
		return PTR_ERR(bo);
	ret = sim_user_init(bo, args);
	if (!ret)
		ret = drm_gem_handle_create(file, &bo->base.base, &args->handle);
	drm_gem_object_put(&bo->base.base);
	return ret;
}
