/* SPDX-License-Identifier: GPL-2.0 */
/* Faults: what simgpu does wrong when a person asks for it. The table is in sim_fault.c. */
#ifndef __SIM_FAULT_H__
#define __SIM_FAULT_H__

#include <linux/dma-fence.h>
#include <linux/dma-resv.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/wait.h>

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
	SIM_FAULT_LATE,
	SIM_FAULT_TWICE,
	SIM_FAULT_EINTR,
	SIM_FAULT_ERRNO_512,
	SIM_FAULT_NOT_WOKEN,
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

struct sim_device;
struct sim_fence;
struct sim_job;
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
};

int sim_fault_create(struct sim_device *sdev);
void sim_fault_all_off(struct sim_device *sdev);
u32 sim_fault(struct sim_device *sdev, enum sim_fault fault);

/* Recovery asks at its start, once the schedulers stand, and for what it ends jobs with. */
void sim_fault_begin(struct sim_device *sdev, struct sim_job *guilty);
bool sim_fault_lock(struct sim_device *sdev);
void sim_fault_stopped(struct sim_device *sdev, struct sim_job *guilty);
u32 sim_fault_seqno(struct sim_device *sdev, u32 seq);
int sim_fault_error(struct sim_device *sdev);
bool sim_fault_park(struct sim_device *sdev, struct sim_job *job);
int sim_fault_end(struct sim_device *sdev);

long sim_fault_wait(struct sim_device *sdev, struct dma_fence *fence, long timeout);

extern const struct file_operations sim_fault_fops;

#endif
