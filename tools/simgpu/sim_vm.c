// SPDX-License-Identifier: GPL-2.0
/*
 * A GPU virtual address space: an interval tree of mappings by page.
 *
 * Executing threads look up and access under vm->lock, so a mapping can go at
 * any time without pulling memory from under them; they fault next time.
 * amdgpu lets the submissions made so far finish before an unmap reaches the
 * page tables. Here a mapping of a busy BO stays as a leftover until the BO
 * is idle or its addresses are needed.
 */
#include <linux/dma-resv.h>
#include <linux/slab.h>

#include "sim.h"

struct sim_mapping {
	struct interval_tree_node it;	/* GPU pages, last included */
	struct sim_bo *bo;
	u64 offset;
	u32 flags;
	bool leftover;
};

#define to_mapping(n) container_of(n, struct sim_mapping, it)

struct sim_vm *sim_vm_create(void)
{
	struct sim_vm *vm = kzalloc(sizeof(*vm), GFP_KERNEL);

	if (!vm)
		return NULL;
	kref_init(&vm->ref);
	spin_lock_init(&vm->lock);
	vm->tree = RB_ROOT_CACHED;
	return vm;
}

struct sim_vm *sim_vm_get(struct sim_vm *vm)
{
	kref_get(&vm->ref);
	return vm;
}

static struct sim_mapping *sim_mapping_alloc(struct sim_bo *bo, u64 va, u64 size, u64 offset,
					     u32 flags)
{
	struct sim_mapping *map = kzalloc(sizeof(*map), GFP_KERNEL);

	if (!map)
		return NULL;
	map->it.start = va >> PAGE_SHIFT;
	map->it.last = (va + size - 1) >> PAGE_SHIFT;
	map->offset = offset;
	map->flags = flags;
	if (bo) {
		drm_gem_object_get(&bo->base.base);
		map->bo = bo;
	}
	return map;
}

static void sim_mapping_free(struct sim_mapping *map)
{
	if (!map)
		return;
	if (map->bo)
		drm_gem_object_put(&map->bo->base.base);
	kfree(map);
}

/* Removed mappings are chained by their tree node, and freed with no lock held. */
static void sim_vm_take(struct sim_vm *vm, struct sim_mapping *map, struct rb_node **chain)
{
	interval_tree_remove(&map->it, &vm->tree);
	map->it.rb.rb_left = *chain;
	*chain = &map->it.rb;
}

static void sim_mapping_free_chain(struct rb_node *chain)
{
	while (chain) {
		struct sim_mapping *map = rb_entry(chain, struct sim_mapping, it.rb);

		chain = chain->rb_left;
		sim_mapping_free(map);
	}
}

static bool sim_bo_busy(struct sim_bo *bo)
{
	return !dma_resv_test_signaled(bo->base.base.resv, DMA_RESV_USAGE_BOOKKEEP);
}

/* Remove the leftovers that are idle; with all, every mapping. */
static void sim_vm_prune(struct sim_vm *vm, bool all)
{
	struct interval_tree_node *it, *next;
	struct rb_node *chain = NULL;

	spin_lock(&vm->lock);
	for (it = interval_tree_iter_first(&vm->tree, 0, ULONG_MAX); it; it = next) {
		struct sim_mapping *map = to_mapping(it);

		next = interval_tree_iter_next(it, 0, ULONG_MAX);
		if (all || (map->leftover && !sim_bo_busy(map->bo)))
			sim_vm_take(vm, map, &chain);
	}
	spin_unlock(&vm->lock);
	sim_mapping_free_chain(chain);
}

void sim_vm_reap(struct sim_vm *vm)
{
	sim_vm_prune(vm, false);
}

static void sim_vm_release(struct kref *ref)
{
	struct sim_vm *vm = container_of(ref, struct sim_vm, ref);

	sim_vm_prune(vm, true);
	kfree(vm);
}

void sim_vm_put(struct sim_vm *vm)
{
	kref_put(&vm->ref, sim_vm_release);
}

/* The last handle of a file to a BO is closed: unmap it. */
void sim_vm_forget(struct sim_vm *vm, struct sim_bo *bo)
{
	struct interval_tree_node *it;

	spin_lock(&vm->lock);
	for (it = interval_tree_iter_first(&vm->tree, 0, ULONG_MAX); it;
	     it = interval_tree_iter_next(it, 0, ULONG_MAX))
		if (to_mapping(it)->bo == bo)
			to_mapping(it)->leftover = true;
	spin_unlock(&vm->lock);
	sim_vm_reap(vm);
}

static void sim_copy(void *to, const void *from, u32 len)
{
	/* what a poll reads or a fence writes must not tear */
	if (len == 4 && IS_ALIGNED((unsigned long)to | (unsigned long)from, 4))
		WRITE_ONCE(*(u32 *)to, READ_ONCE(*(const u32 *)from));
	else
		memcpy(to, from, len);
}

static int sim_vm_access(struct sim_vm *vm, u64 va, void *buf, u32 len, u32 need, u64 *fault)
{
	while (len) {
		unsigned long page = va >> PAGE_SHIFT;
		u32 n = min_t(u64, len, PAGE_SIZE - offset_in_page(va));
		struct interval_tree_node *it;
		struct sim_mapping *map;
		void *p;

		spin_lock(&vm->lock);
		it = interval_tree_iter_first(&vm->tree, page, page);
		if (!it || (to_mapping(it)->flags & need) != need) {
			spin_unlock(&vm->lock);
			*fault = va;
			return -EFAULT;
		}
		map = to_mapping(it);
		sim_user_begin_access(map->bo);
		p = map->bo->vaddr + map->offset + (va - ((u64)map->it.start << PAGE_SHIFT));
		if (need & AMDGPU_VM_PAGE_WRITEABLE)
			sim_copy(p, buf, n);
		else
			sim_copy(buf, p, n);
		sim_user_end_access(map->bo);
		spin_unlock(&vm->lock);

		va += n;
		buf += n;
		len -= n;
	}
	return 0;
}

/* -EFAULT and the address at which it failed, if a page is not mapped readable. */
int sim_vm_read(struct sim_vm *vm, u64 va, void *to, u32 len, u64 *fault)
{
	return sim_vm_access(vm, va, to, len, AMDGPU_VM_PAGE_READABLE, fault);
}

int sim_vm_write(struct sim_vm *vm, u64 va, const void *from, u32 len, u64 *fault)
{
	return sim_vm_access(vm, va, (void *)from, len, AMDGPU_VM_PAGE_WRITEABLE, fault);
}

static int sim_vm_insert(struct sim_vm *vm, struct sim_mapping *map)
{
	struct interval_tree_node *it, *next;
	struct rb_node *chain = NULL;
	int ret = 0;

	spin_lock(&vm->lock);
	for (it = interval_tree_iter_first(&vm->tree, map->it.start, map->it.last); it;
	     it = next) {
		next = interval_tree_iter_next(it, map->it.start, map->it.last);
		if (!to_mapping(it)->leftover) {
			ret = -EINVAL;
			break;
		}
		sim_vm_take(vm, to_mapping(it), &chain);
	}
	if (!ret)
		interval_tree_insert(&map->it, &vm->tree);
	spin_unlock(&vm->lock);
	sim_mapping_free_chain(chain);
	return ret;
}

int sim_vm_unmap(struct sim_vm *vm, struct sim_bo *bo, u64 va)
{
	unsigned long page = va >> PAGE_SHIFT;
	struct interval_tree_node *it;
	int ret = -ENOENT;

	spin_lock(&vm->lock);
	it = interval_tree_iter_first(&vm->tree, page, page);
	if (it && it->start == page && to_mapping(it)->bo == bo && !to_mapping(it)->leftover) {
		to_mapping(it)->leftover = true;
		ret = 0;
	}
	spin_unlock(&vm->lock);
	sim_vm_reap(vm);
	return ret;
}

/* Use a spare node for what remains of map from page first to page last. */
static struct sim_mapping *sim_mapping_rest(struct sim_mapping *spare, struct sim_mapping *map,
					    unsigned long first, unsigned long last)
{
	spare->it.start = first;
	spare->it.last = last;
	spare->offset = map->offset + ((u64)(first - map->it.start) << PAGE_SHIFT);
	spare->flags = map->flags;
	spare->leftover = map->leftover;
	spare->bo = map->bo;
	drm_gem_object_get(&map->bo->base.base);
	return spare;
}

/*
 * Empty a range, cutting what reaches over its ends, then insert map into it
 * if given. Only the first and the last mapping can need a spare node.
 */
static int sim_vm_replace(struct sim_vm *vm, u64 va, u64 size, struct sim_mapping *map)
{
	unsigned long first = va >> PAGE_SHIFT, last = (va + size - 1) >> PAGE_SHIFT;
	struct sim_mapping *before = NULL, *after = NULL;
	struct sim_mapping *spare_a, *spare_b;
	struct interval_tree_node *it, *next;
	struct rb_node *chain = NULL;

	spare_a = sim_mapping_alloc(NULL, va, size, 0, 0);
	spare_b = sim_mapping_alloc(NULL, va, size, 0, 0);
	if (!spare_a || !spare_b) {
		kfree(spare_a);
		kfree(spare_b);
		return -ENOMEM;
	}

	spin_lock(&vm->lock);
	for (it = interval_tree_iter_first(&vm->tree, first, last); it; it = next) {
		struct sim_mapping *old = to_mapping(it);

		next = interval_tree_iter_next(it, first, last);
		if (it->start < first)
			before = sim_mapping_rest(spare_a, old, it->start, first - 1);
		if (it->last > last)
			after = sim_mapping_rest(spare_b, old, last + 1, it->last);
		sim_vm_take(vm, old, &chain);
	}
	if (before)
		interval_tree_insert(&before->it, &vm->tree);
	if (after)
		interval_tree_insert(&after->it, &vm->tree);
	if (map)
		interval_tree_insert(&map->it, &vm->tree);
	spin_unlock(&vm->lock);

	if (!before)
		kfree(spare_a);
	if (!after)
		kfree(spare_b);
	sim_mapping_free_chain(chain);
	return 0;
}

/* Map pages of bo, over what is there if replace, else only where nothing is. */
int sim_vm_map(struct sim_vm *vm, struct sim_bo *bo, u64 va, u64 size, u64 offset, u32 flags,
	       bool replace)
{
	struct sim_mapping *map = sim_mapping_alloc(bo, va, size, offset, flags);
	int ret;

	if (!map)
		return -ENOMEM;
	if (replace)
		ret = sim_vm_replace(vm, va, size, map);
	else
		ret = sim_vm_insert(vm, map);
	if (ret)
		sim_mapping_free(map);
	return ret;
}

int sim_vm_clear(struct sim_vm *vm, u64 va, u64 size)
{
	return sim_vm_replace(vm, va, size, NULL);
}
