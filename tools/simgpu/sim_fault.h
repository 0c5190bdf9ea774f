/* SPDX-License-Identifier: GPL-2.0 */
/* Faults: what simgpu does wrong when a person asks for it. The table is in sim_fault.c, each kind in a file. */
#ifndef __SIM_FAULT_H__
#define __SIM_FAULT_H__

#include <linux/dma-fence.h>
#include <linux/dma-resv.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

enum sim_fault {
	SIM_FAULT_CONSOLE_LOCK,
	SIM_FAULT_MODESET_LOCKS,
	SIM_FAULT_DMA_RESV,
	SIM_FAULT_GFP_KERNEL,
	SIM_FAULT_MMU_NOTIFIER,
	SIM_FAULT_OWN_LOCK,
	SIM_FAULT_FLUSH_OWN_WORK,
	SIM_FAULT_PENDING,
	SIM_FAULT_NO_ERROR,
	SIM_FAULT_WRONG_ERROR,
	SIM_FAULT_ORDER,
	SIM_FAULT_SEQNO,
	SIM_FAULT_FREED,
	SIM_FAULT_FREED_SILENT,
	SIM_FAULT_LATE,
	SIM_FAULT_TWICE,
	SIM_FAULT_BLAME,
	SIM_FAULT_EINTR,
	SIM_FAULT_ERRNO_512,
	SIM_FAULT_NOT_WOKEN,
	SIM_FAULT_DEADLOCK,
	SIM_FAULT_MODE_LOST,
	SIM_FAULT_VBLANK_DEAD,
	SIM_FAULT_FLIP_LOST,
	SIM_FAULT_FRAME_CORRUPT,
	SIM_FAULT_DUMP_MISSING,
	SIM_FAULT_DUMP_CUT,
	SIM_FAULT_NEVER_ENDS,
	SIM_FAULT_FAILS,
	SIM_FAULT_WARN,
	SIM_FAULT_OOPS,
	SIM_FAULT_PANIC,
	SIM_FAULT_HARD_LOCKUP,
	SIM_FAULT_LOG_FLOOD,
	SIM_FAULT_LEAK,
	SIM_NUM_FAULTS
};

struct drm_pending_vblank_event;
struct sim_device;
struct sim_fence;
struct sim_job;
struct sim_regs;
struct sim_ring;

struct sim_faults {
	struct mutex switch_lock;	/* one write at a time */
	u32 value[SIM_NUM_FAULTS];	/* 0 is off */
	wait_queue_head_t wait;		/* for a value to change */
	bool wedged;			/* a recovery failed: jobs do not run */
	struct mutex own_lock;
	struct dma_resv resv;
	struct list_head parked;	/* sim_job.node; the ring's list lost them */
	spinlock_t parked_lock;
	struct sim_fence *spare;
	struct dma_fence_cb spare_cb;
	void *leaked;
	struct work_struct holder;	/* of the modeset locks, while */
	struct dma_fence *awaited;	/* this is pending */
	bool holding;
	int flips_lost;			/* value of the reset counter; event_lock */
};

/* sim_fault.c; recovery asks at its very start */
int sim_fault_create(struct sim_device *sdev);
void sim_fault_all_off(struct sim_device *sdev);
u32 sim_fault(struct sim_device *sdev, enum sim_fault fault);
void sim_fault_begin(struct sim_device *sdev, struct sim_job *guilty);

/* sim_fault_lock.c */
void sim_fault_locking(struct sim_device *sdev, struct sim_job *guilty);
bool sim_fault_lock(struct sim_device *sdev);
void sim_fault_hold(struct work_struct *work);

/* sim_fault_fence.c; recovery asks once the schedulers stand, and what it ends jobs with */
void sim_fault_stopped(struct sim_device *sdev, struct sim_job *guilty);
u32 sim_fault_seqno(struct sim_device *sdev, u32 seq);
int sim_fault_error(struct sim_device *sdev);
bool sim_fault_park(struct sim_device *sdev, struct sim_job *job);
int sim_fault_prepare_fence(struct sim_device *sdev);
void sim_fault_settle_fence(struct sim_device *sdev);

/* sim_fault_machine.c; recovery asks for its result */
void sim_fault_machine(struct sim_device *sdev);
int sim_fault_end(struct sim_device *sdev);
bool sim_fault_wedged(struct sim_device *sdev);

/* sim_fault_display.c */
void sim_fault_regs(struct sim_device *sdev, struct sim_regs *regs);
void sim_fault_prepare_flip(struct sim_device *sdev);
void sim_fault_flip(struct sim_device *sdev, struct drm_pending_vblank_event *event);

/* sim_fault_wait.c */
long sim_fault_wait(struct sim_device *sdev, struct dma_fence *fence, long timeout);

extern const struct file_operations sim_fault_fops;

#endif
