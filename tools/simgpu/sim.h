/* SPDX-License-Identifier: GPL-2.0 */
/*
 * simgpu: a GPU made of software that speaks amdgpu's userspace ABI.
 *
 * Nouns, from the device inward:
 *   sim_device   one PCI device with its rings and its display
 *   sim_core     what fences need after the device is gone: the rings' memory
 *   sim_ring     a drm_gpu_scheduler, a hw fence timeline, an executing thread
 *   sim_file     an open file: its GPU address space, contexts, BO lists
 *   sim_vm       a GPU virtual address space
 *   sim_ctx      a context: the entities that userspace submits through
 *   sim_job      one submission, sim_fence its preallocated hw fence
 *   sim_remedies how a reset of the display deals with those who wait for it
 */
#ifndef __SIM_H__
#define __SIM_H__

#undef dev_fmt
#define dev_fmt(fmt) "amdgpu: " fmt

#include <linux/interval_tree.h>
#include <linux/kref.h>
#include <linux/llist.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/xarray.h>

#include <drm/amdgpu_drm.h>
#include <drm/drm_auth.h>
#include <drm/drm_device.h>
#include <drm/drm_file.h>
#include <drm/drm_gem_shmem_helper.h>
#include <drm/gpu_scheduler.h>

#include "sim_fault.h"
#include "sim_remedy.h"

#define SIM_NUM_GFX	1
#define SIM_NUM_COMPUTE	4
#define SIM_NUM_SDMA	2
#define SIM_NUM_RINGS	(SIM_NUM_GFX + SIM_NUM_COMPUTE + SIM_NUM_SDMA)
#define SIM_NUM_IPS	3	/* GFX, COMPUTE, DMA: the uAPI's numbers 0 to 2 */
#define SIM_MAX_PER_IP	4

#define SIM_VA_BOTTOM	0x200000ull		/* first address of userspace */
#define SIM_VA_HOLE	0x0000800000000000ull	/* start of the non-canonical hole */
#define SIM_VA_HIGH	0xffff800000000000ull	/* end of it */
#define SIM_VA_MASK	0x0000ffffffffffffull
#define SIM_VA_TOP	0x0000fffffff00000ull	/* the rest is the kernel's */

#define SIM_CTX_FENCES	64	/* jobs per entity that WAIT_CS can still find */
#define SIM_MAX_IBS	49	/* of a job: as amdgpu's SDMA, its other rings take more */
#define SIM_MAX_BOS	4096
#define SIM_BOUNCE	4096

struct sim_device;

struct sim_ring {
	char name[20];
	struct sim_core *core;
	struct sim_device *sdev;	/* valid while the scheduler runs */
	struct drm_gpu_scheduler sched;
	u32 index;
	u32 ip;
	u32 ip_index;

	u64 fence_context;
	u32 emitted;			/* written by run_job only */
	u32 signaled;			/* written by the owner of the queue head */

	spinlock_t lock;		/* jobs, gone */
	struct list_head jobs;		/* submitted to the "hardware", in order */
	bool gone;
	bool halt;			/* asks the thread to drop what it executes */
	bool halted;			/* its answer */
	wait_queue_head_t wait;
	struct task_struct *thread;
	u8 *bounce;			/* SIM_BOUNCE bytes, the thread's */
};

/* Outlives the device: sched fences point to their scheduler for its name. */
struct sim_core {
	struct kref ref;
	u64 unrun_context;		/* hw fences of jobs that never ran */
	atomic_t unrun_seq;
	struct sim_ring ring[SIM_NUM_RINGS];
};

struct sim_device {
	struct drm_device drm;
	struct sim_core *core;
	struct workqueue_struct *reset_wq;
	struct work_struct reset_work;
	struct work_struct unplug_work;
	int reset_result;
	bool in_reset;
	atomic_t reset_counter;
	u32 sched_mask[SIM_NUM_IPS];
	struct sim_faults faults;
	struct sim_remedies remedies;

	struct mutex notifier_lock;	/* publishing fences against waiting for them */
	u64 vram_size;
	u64 gtt_size;
	atomic64_t vram_used;
	atomic64_t gtt_used;

	struct sim_display *display;
	struct sim_dump *dump;
};

struct sim_file {
	struct sim_vm *vm;
	struct xarray ctxs;
	struct xarray lists;
};

struct sim_user;

struct sim_bo {
	struct drm_gem_shmem_object base;	/* first: the helper frees it */
	void *vaddr;
	struct sim_user *user;		/* memory is a process's; else NULL */
	u64 domains;
	u64 flags;
	u64 accounted;
	struct mutex meta_lock;		/* what userspace notes here, below */
	u64 meta_flags;
	u64 tiling;
	u32 meta_size;
	u32 meta[64];
};

struct sim_vm {
	struct kref ref;
	spinlock_t lock;		/* taken by executing threads: no allocation inside */
	struct rb_root_cached tree;	/* by GPU page number */
};

struct sim_list {
	struct kref ref;
	u32 count;
	struct drm_gem_object *obj[] __counted_by(count);
};

struct sim_entity {
	struct drm_sched_entity base;
	struct drm_gpu_scheduler *scheds[SIM_MAX_PER_IP];
	u32 mask;			/* sched_mask that scheds was made from */
	struct mutex lock;		/* makes arm and push one step */
	spinlock_t fence_lock;		/* seq, fence */
	u64 seq;			/* of the next submission */
	struct dma_fence *fence[SIM_CTX_FENCES];
};

struct sim_ctx {
	struct kref ref;		/* of the memory; jobs hold it too */
	struct kref users;		/* of the entities; handle and ioctls */
	struct mutex lock;		/* creation of entities */
	enum drm_sched_priority priority;
	atomic_t guilty;
	int reset_counter;		/* when created */
	int reset_seen;			/* by the last QUERY_STATE */
	struct sim_entity *entity[SIM_NUM_IPS][SIM_MAX_PER_IP];
};

struct sim_fence {
	struct dma_fence base;
	spinlock_t lock;		/* base's */
	struct sim_core *core;
	const char *name;
	bool live;			/* initialised, hence reference counted */
};

struct sim_ib {
	u64 va;
	u32 dwords;
};

struct sim_job {
	struct drm_sched_job base;
	struct sim_device *sdev;
	struct sim_ctx *ctx;
	struct sim_vm *vm;
	struct sim_fence *hw;
	struct list_head node;		/* sim_ring.jobs */
	struct llist_node dead;
	struct sim_bo *user_fence;
	u32 user_fence_offset;
	u64 handle;
	bool armed;
	bool faulted;
	bool killed;			/* by soft recovery */
	pid_t pid, tgid;
	char comm[TASK_COMM_LEN], group_comm[TASK_COMM_LEN];
	u32 num_ibs;
	struct sim_ib ib[SIM_MAX_IBS];
};

#define to_sim_device(d)	container_of(d, struct sim_device, drm)
#define to_sim_bo(o)		container_of(to_drm_gem_shmem_obj(o), struct sim_bo, base)
#define to_sim_job(j)		container_of(j, struct sim_job, base)
#define to_sim_ring(s)		container_of(s, struct sim_ring, sched)

/* sim_param.c */
#define SIM_DEBUG_NO_SOFT_RECOVERY BIT(2)	/* as in amdgpu's debug_mask */

enum sim_scope {
	SIM_SCOPE_SOFT,			/* kill the job */
	SIM_SCOPE_RING,			/* reset its ring */
	SIM_SCOPE_FULL,			/* reset all rings */
	SIM_SCOPE_DISPLAY,		/* and the display */
	SIM_NUM_SCOPES
};

extern int sim_gpu_recovery;
extern unsigned int sim_debug_mask;
extern bool sim_fbdev;
enum sim_scope sim_reset_scope(void);
enum sim_remedy sim_remedy(u32 *writes);
long sim_lockup_timeout(u32 ip);
int sim_param_init(void);

/* sim_info.c */
int sim_info_ioctl(struct drm_device *drm, void *data, struct drm_file *file);
u32 sim_ip_rings(u32 ip);

/* sim_gem.c */
struct drm_gem_object *sim_gem_create_object(struct drm_device *drm, size_t size);
struct sim_bo *sim_bo_create(struct drm_device *drm, u64 size, u64 domains, u64 flags, bool map);
int sim_bo_map(struct sim_bo *bo);
int sim_gem_dumb_create(struct drm_file *file, struct drm_device *drm,
			struct drm_mode_create_dumb *args);
int sim_gem_create_ioctl(struct drm_device *drm, void *data, struct drm_file *file);
int sim_gem_mmap_ioctl(struct drm_device *drm, void *data, struct drm_file *file);
int sim_gem_wait_idle_ioctl(struct drm_device *drm, void *data, struct drm_file *file);
int sim_gem_metadata_ioctl(struct drm_device *drm, void *data, struct drm_file *file);
int sim_gem_op_ioctl(struct drm_device *drm, void *data, struct drm_file *file);

/* sim_user.c */
int sim_gem_userptr_ioctl(struct drm_device *drm, void *data, struct drm_file *file);
void sim_user_begin_access(struct sim_bo *bo);
void sim_user_end_access(struct sim_bo *bo);
bool sim_user_foreign(const struct sim_bo *bo);
bool sim_user_readonly(const struct sim_bo *bo);
int sim_user_refresh(struct sim_bo *bo);
bool sim_user_stale(struct sim_bo *bo);
void sim_user_free(struct sim_bo *bo);

/* sim_vm.c */
struct sim_vm *sim_vm_create(void);
struct sim_vm *sim_vm_get(struct sim_vm *vm);
void sim_vm_put(struct sim_vm *vm);
void sim_vm_forget(struct sim_vm *vm, struct sim_bo *bo);
void sim_vm_reap(struct sim_vm *vm);
int sim_vm_read(struct sim_vm *vm, u64 va, void *to, u32 len, u64 *fault);
int sim_vm_write(struct sim_vm *vm, u64 va, const void *from, u32 len, u64 *fault);
int sim_vm_map(struct sim_vm *vm, struct sim_bo *bo, u64 va, u64 size, u64 offset, u32 flags,
	       bool replace);
int sim_vm_unmap(struct sim_vm *vm, struct sim_bo *bo, u64 va);
int sim_vm_clear(struct sim_vm *vm, u64 va, u64 size);

/* sim_va.c */
int sim_gem_va_ioctl(struct drm_device *drm, void *data, struct drm_file *file);

/* sim_list.c */
struct sim_list *sim_list_create(struct drm_file *file, const struct drm_amdgpu_bo_list_in *in);
struct sim_list *sim_list_find(struct sim_file *sfile, u32 handle);
void sim_list_put(struct sim_list *list);
void sim_list_close(struct sim_file *sfile);
int sim_bo_list_ioctl(struct drm_device *drm, void *data, struct drm_file *file);

/* sim_ctx.c */
struct sim_ctx *sim_ctx_find(struct sim_file *sfile, u32 id);
void sim_ctx_done(struct sim_ctx *ctx);
void sim_ctx_put(struct sim_ctx *ctx);
void sim_ctx_close(struct sim_file *sfile);
struct sim_entity *sim_ctx_entity(struct sim_device *sdev, struct sim_ctx *ctx,
				  u32 ip, u32 instance, u32 ring);
void sim_entity_pin(struct sim_device *sdev, struct sim_entity *entity, u32 ip);
struct dma_fence *sim_ctx_fence(struct sim_ctx *ctx, u32 ip, u32 instance, u32 ring, u64 handle);
int sim_ctx_ioctl(struct drm_device *drm, void *data, struct drm_file *file);

/* sim_cs.c */
int sim_cs_ioctl(struct drm_device *drm, void *data, struct drm_file *file);

/* sim_wait.c */
long sim_timeout(u64 absolute);
int sim_wait_cs_ioctl(struct drm_device *drm, void *data, struct drm_file *file);
int sim_wait_fences_ioctl(struct drm_device *drm, void *data, struct drm_file *file);
int sim_fence_to_handle_ioctl(struct drm_device *drm, void *data, struct drm_file *file);

/* sim_job.c */
struct sim_job *sim_job_create(struct sim_device *sdev, struct sim_ctx *ctx, struct sim_vm *vm);
void sim_job_destroy(struct sim_job *job);
void sim_job_retire(struct sim_job *job);
int sim_job_init(void);
void sim_job_exit(void);

/* sim_fence.c */
struct sim_fence *sim_fence_alloc(struct sim_core *core);
void sim_fence_start(struct sim_fence *fence, struct sim_ring *ring, u32 seq);
void sim_fence_free(struct sim_fence *fence);
void sim_fence_start_unrun(struct sim_fence *fence);
void sim_core_put(struct sim_core *core);

/* sim_ring.c */
extern const struct drm_sched_backend_ops sim_sched_ops;
int sim_rings_create(struct sim_device *sdev);
int sim_rings_start(struct sim_device *sdev);
void sim_rings_stop(struct sim_device *sdev);
bool sim_ring_dropping(struct sim_ring *ring, const struct sim_job *job);
void sim_ring_kill(struct sim_ring *ring, struct sim_job *job);
void sim_ring_halt(struct sim_ring *ring);
void sim_ring_resume(struct sim_ring *ring);
void sim_ring_cancel(struct sim_ring *ring, struct sim_job *guilty, int error);

/* sim_exec.c */
int sim_exec_run(struct sim_ring *ring, struct sim_job *job, const struct sim_ib *ib);

/* sim_pm.c */
extern const struct dev_pm_ops sim_pm_ops;

/* sim_reset.c */
enum drm_gpu_sched_stat sim_reset_timedout(struct drm_sched_job *base);
int sim_reset_create(struct sim_device *sdev);
int sim_reset_request(struct sim_device *sdev);

/* sim_display.c */
int sim_display_create(struct sim_device *sdev);
void sim_display_stop(struct sim_device *sdev);

/* sim_restore.c */
enum sim_tale {				/* what userspace is told beside the devcoredump */
	SIM_TALE_NONE,
	SIM_TALE_RECOVERED,
	SIM_TALE_WEDGED,
	SIM_NUM_TALES
};

void sim_restore_clobber(struct sim_device *sdev);
void sim_restore_now(struct sim_device *sdev);
void sim_restore_queue(struct sim_device *sdev, enum sim_tale tale, bool display);

/* sim_coredump.c */
int sim_coredump_create(struct sim_device *sdev);
void sim_coredump_note(struct sim_ring *ring, const struct sim_job *job);
void sim_coredump_capture(struct sim_device *sdev, const struct sim_job *guilty);
void sim_coredump_emit(struct sim_device *sdev);

/* sim_debugfs.c */
void sim_debugfs_init(struct drm_minor *minor);

#endif
