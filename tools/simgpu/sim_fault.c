// SPDX-License-Identifier: GPL-2.0
/*
 * Faults on demand. Each is a row of the table and does what it says, never by
 * printing; debugfs switches it. All are off until then, and off again when
 * the device goes: whoever waits for that, wakes.
 */
#include <linux/console.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/irqflags.h>
#include <linux/mm.h>
#include <linux/panic.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#include <drm/drm_drv.h>
#include <drm/drm_managed.h>
#include <drm/drm_modeset_lock.h>

#include "sim.h"

struct sim_fault_row {
	const char *name;
	const char *kind;
	const char *where;
	const char *help;
	u32 preset;		/* value when none is given; 0 is as 1 */
};

static const struct sim_fault_row sim_fault_table[SIM_NUM_FAULTS] = {
	[SIM_FAULT_CONSOLE_LOCK] = {
		"console_lock", "locking", "recovery", "take console_lock" },
	[SIM_FAULT_MODESET_LOCKS] = {
		"modeset_locks", "locking", "recovery", "take all modeset locks" },
	[SIM_FAULT_DMA_RESV] = {
		"dma_resv", "locking", "recovery", "take a reservation lock" },
	[SIM_FAULT_GFP_KERNEL] = {
		"gfp_kernel", "locking", "recovery", "allocate with GFP_KERNEL" },
	[SIM_FAULT_MMU_NOTIFIER] = {
		"mmu_notifier", "locking", "recovery", "unmap all BOs from their processes" },
	[SIM_FAULT_OWN_LOCK] = {
		"own_lock", "locking", "recovery, WAIT_CS",
		"hold a lock across drm_sched_stop that waiters hold too" },
	[SIM_FAULT_FLUSH_OWN_WORK] = {
		"flush_own_work", "locking", "recovery", "flush the work it runs in" },
	[SIM_FAULT_PENDING] = {
		"fence_pending", "fence", "recovery", "forget the guilty job until switched off" },
	[SIM_FAULT_NO_ERROR] = {
		"fence_no_error", "fence", "recovery", "end the guilty job without an error" },
	[SIM_FAULT_WRONG_ERROR] = {
		"fence_wrong_error", "fence", "recovery", "end the guilty job with -VALUE", EIO },
	[SIM_FAULT_ORDER] = {
		"fence_order", "fence", "recovery", "end the jobs of a ring last to first" },
	[SIM_FAULT_SEQNO] = {
		"fence_seqno", "fence", "run_job", "number hw fences VALUE below what is due", 2 },
	[SIM_FAULT_FREED] = {
		"fence_freed", "fence", "recovery",
		"free a hw fence unsignaled, with a callback, once" },
	[SIM_FAULT_LATE] = {
		"fence_late", "fence", "recovery", "end the jobs VALUE ms late", 60000 },
	[SIM_FAULT_TWICE] = {
		"recover_twice", "fence", "timeout", "recover twice from one timeout" },
	[SIM_FAULT_EINTR] = {
		"wait_eintr", "wait", "WAIT_CS, WAIT_FENCES",
		"EINTR without a signal, when a reset comes" },
	[SIM_FAULT_ERRNO_512] = {
		"wait_errno_512", "wait", "WAIT_CS, WAIT_FENCES",
		"ERESTARTSYS without a signal, when a reset comes" },
	[SIM_FAULT_NOT_WOKEN] = {
		"wait_not_woken", "wait", "WAIT_CS, WAIT_FENCES",
		"sleep on after a reset, until timeout or switched off" },
	[SIM_FAULT_NEVER_ENDS] = {
		"recovery_never_ends", "machine", "recovery", "sleep until switched off" },
	[SIM_FAULT_FAILS] = {
		"recovery_fails", "machine", "recovery", "fail, and run no job until switched off" },
	[SIM_FAULT_WARN] = { "warn", "machine", "recovery", "WARN" },
	[SIM_FAULT_OOPS] = { "oops", "machine", "recovery", "write to address 0" },
	[SIM_FAULT_PANIC] = { "panic", "machine", "recovery", "panic" },
	[SIM_FAULT_HARD_LOCKUP] = {
		"hard_lockup", "machine", "recovery",
		"keep a CPU for VALUE seconds with interrupts off", 120 },
	[SIM_FAULT_LOG_FLOOD] = {
		"log_flood", "machine", "recovery", "log VALUE lines", 100000 },
	[SIM_FAULT_LEAK] = { "leak", "machine", "recovery", "leak VALUE KiB", 1024 },
};

/* The value of a fault; 0 when it is off. */
u32 sim_fault(struct sim_device *sdev, enum sim_fault fault)
{
	return READ_ONCE(sdev->faults.value[fault]);
}

/* ---- locks ---- */

static void sim_fault_modeset(struct drm_device *drm)
{
	struct drm_modeset_acquire_ctx ctx;

	drm_modeset_acquire_init(&ctx, 0);
	while (drm_modeset_lock_all_ctx(drm, &ctx) == -EDEADLK)
		drm_modeset_backoff(&ctx);
	drm_modeset_drop_locks(&ctx);
	drm_modeset_acquire_fini(&ctx);
}

static void sim_fault_resv(struct dma_resv *resv)
{
	struct ww_acquire_ctx ctx;

	ww_acquire_init(&ctx, &reservation_ww_class);
	if (!dma_resv_lock(resv, &ctx))
		dma_resv_unlock(resv);
	ww_acquire_fini(&ctx);
}

static void sim_fault_locking(struct sim_device *sdev, struct sim_job *guilty)
{
	if (sim_fault(sdev, SIM_FAULT_CONSOLE_LOCK)) {
		console_lock();
		console_unlock();
	}
	if (sim_fault(sdev, SIM_FAULT_MODESET_LOCKS))
		sim_fault_modeset(&sdev->drm);
	if (sim_fault(sdev, SIM_FAULT_DMA_RESV))
		sim_fault_resv(&sdev->faults.resv);
	if (sim_fault(sdev, SIM_FAULT_GFP_KERNEL))
		kfree(kmalloc(64, GFP_KERNEL));
	/* as drivers do before they move what userspace has mapped */
	if (sim_fault(sdev, SIM_FAULT_MMU_NOTIFIER))
		unmap_mapping_range(sdev->drm.anon_inode->i_mapping, 0, 0, 1);
	if (sim_fault(sdev, SIM_FAULT_FLUSH_OWN_WORK) && guilty)
		flush_delayed_work(&guilty->base.sched->work_tdr);
}

/* ---- the machine ---- */

/* Deaf to interrupts, so it counts loops: this CPU may be the one that keeps the time. */
static void sim_fault_lockup(struct sim_device *sdev)
{
	unsigned long flags;
	u32 left = sim_fault(sdev, SIM_FAULT_HARD_LOCKUP) * 100;

	local_irq_save(flags);
	while (left-- && sim_fault(sdev, SIM_FAULT_HARD_LOCKUP))
		mdelay(10);
	local_irq_restore(flags);
}

static void sim_fault_flood(struct sim_device *sdev)
{
	u32 i, count = sim_fault(sdev, SIM_FAULT_LOG_FLOOD);

	for (i = 1; i <= count && sim_fault(sdev, SIM_FAULT_LOG_FLOOD); i++) {
		dev_info(sdev->drm.dev, "line %u of %u\n", i, count);
		cond_resched();
	}
}

static void sim_fault_machine(struct sim_device *sdev)
{
	WARN(sim_fault(sdev, SIM_FAULT_WARN), "a fault asked for this\n");
	if (sim_fault(sdev, SIM_FAULT_OOPS))
		WRITE_ONCE(*(u32 *)NULL, 0);
	if (sim_fault(sdev, SIM_FAULT_PANIC))
		panic("a fault asked for this");
	if (sim_fault(sdev, SIM_FAULT_HARD_LOCKUP))
		sim_fault_lockup(sdev);
	if (sim_fault(sdev, SIM_FAULT_LOG_FLOOD))
		sim_fault_flood(sdev);
	if (sim_fault(sdev, SIM_FAULT_LEAK))
		WRITE_ONCE(sdev->faults.leaked,
			   kmalloc((size_t)sim_fault(sdev, SIM_FAULT_LEAK) << 10,
				   GFP_NOWAIT | __GFP_NOWARN));
	wait_event(sdev->faults.wait, !sim_fault(sdev, SIM_FAULT_NEVER_ENDS));
}

/* ---- recovery ---- */

/* At its very start, in the scheduler's signalling section. */
void sim_fault_begin(struct sim_device *sdev, struct sim_job *guilty)
{
	sim_fault_locking(sdev, guilty);
	sim_fault_machine(sdev);
}

/* Whether own_lock is held from here on. */
bool sim_fault_lock(struct sim_device *sdev)
{
	if (!sim_fault(sdev, SIM_FAULT_OWN_LOCK))
		return false;
	mutex_lock(&sdev->faults.own_lock);
	return true;
}

static void sim_fault_spare_signaled(struct dma_fence *fence, struct dma_fence_cb *cb)
{
}

/* A fence that nobody will signal, although somebody asked to be told. */
static void sim_fault_free_fence(struct sim_device *sdev)
{
	struct sim_ring *ring = &sdev->core->ring[0];
	struct sim_fence *fence = xchg(&sdev->faults.spare, NULL);

	if (!fence)
		return;
	/* run_job stands still, so the timeline is ours */
	WRITE_ONCE(ring->emitted, ring->emitted + 1);
	sim_fence_start(fence, ring, ring->emitted);
	dma_fence_add_callback(&fence->base, &sdev->faults.spare_cb, sim_fault_spare_signaled);
	dma_fence_put(&fence->base);
}

/* The schedulers stand, nothing has ended yet. */
void sim_fault_stopped(struct sim_device *sdev, struct sim_job *guilty)
{
	u32 late = guilty ? sim_fault(sdev, SIM_FAULT_LATE) : 0;

	if (sim_fault(sdev, SIM_FAULT_FREED))
		sim_fault_free_fence(sdev);
	if (late)
		wait_event_idle_timeout(sdev->faults.wait, !sim_fault(sdev, SIM_FAULT_LATE),
					msecs_to_jiffies(late));
}

/* The number of a hw fence that should have seq. */
u32 sim_fault_seqno(struct sim_device *sdev, u32 seq)
{
	u32 less = sim_fault(sdev, SIM_FAULT_SEQNO);

	return less < seq ? seq - less : seq;
}

/* What the guilty job ends with. */
int sim_fault_error(struct sim_device *sdev)
{
	u32 wrong = sim_fault(sdev, SIM_FAULT_WRONG_ERROR);

	if (sim_fault(sdev, SIM_FAULT_NO_ERROR))
		return 0;
	return wrong ? -(int)min_t(u32, wrong, MAX_ERRNO) : -ETIME;
}

/*
 * Take the guilty job from its ring and its scheduler, whose drm_sched_stop()
 * has given up its parent and its credits, and keep it with its fences pending.
 */
bool sim_fault_park(struct sim_device *sdev, struct sim_job *job)
{
	struct drm_gpu_scheduler *sched = job->base.sched;
	struct sim_ring *ring = to_sim_ring(sched);

	spin_lock(&sdev->faults.parked_lock);
	if (!sim_fault(sdev, SIM_FAULT_PENDING)) {
		spin_unlock(&sdev->faults.parked_lock);
		return false;
	}
	spin_lock(&ring->lock);
	list_del_init(&job->node);
	spin_unlock(&ring->lock);
	spin_lock(&sched->job_list_lock);
	list_del_init(&job->base.list);
	spin_unlock(&sched->job_list_lock);
	list_add_tail(&job->node, &sdev->faults.parked);
	spin_unlock(&sdev->faults.parked_lock);
	return true;
}

static void sim_fault_unpark(struct sim_device *sdev)
{
	struct sim_job *job, *next;
	LIST_HEAD(jobs);

	spin_lock(&sdev->faults.parked_lock);
	list_splice_init(&sdev->faults.parked, &jobs);
	spin_unlock(&sdev->faults.parked_lock);

	list_for_each_entry_safe(job, next, &jobs, node) {
		struct dma_fence *finished = &job->base.s_fence->finished;

		list_del_init(&job->node);
		if (!job->base.s_fence->parent)
			job->base.s_fence->parent = dma_fence_get(&job->hw->base);
		dma_fence_set_error(&job->hw->base, -ETIME);
		dma_fence_signal(&job->hw->base);
		dma_fence_set_error(finished, -ETIME);
		dma_fence_signal(finished);
		sim_job_retire(job);
	}
}

/* How recovery ends: 0, or the error that it fails with. */
int sim_fault_end(struct sim_device *sdev)
{
	if (!sim_fault(sdev, SIM_FAULT_FAILS))
		return 0;
	WRITE_ONCE(sdev->faults.wedged, true);
	return -EIO;
}

/* ---- waits ---- */

/* As dma_fence_wait_timeout(), interruptibly. */
long sim_fault_wait(struct sim_device *sdev, struct dma_fence *fence, long timeout)
{
	int resets = atomic_read(&sdev->reset_counter);
	long ret;

	if (sim_fault(sdev, SIM_FAULT_OWN_LOCK)) {
		ret = mutex_lock_interruptible(&sdev->faults.own_lock);
		if (ret)
			return ret;
		ret = dma_fence_wait_timeout(fence, true, timeout);
		mutex_unlock(&sdev->faults.own_lock);
		return ret;
	}

	ret = dma_fence_wait_timeout(fence, true, timeout);
	if (ret <= 0 || atomic_read(&sdev->reset_counter) == resets)
		return ret;
	if (sim_fault(sdev, SIM_FAULT_EINTR))
		return -EINTR;
	if (sim_fault(sdev, SIM_FAULT_ERRNO_512))
		return -ERESTARTSYS;
	if (sim_fault(sdev, SIM_FAULT_NOT_WOKEN))
		return wait_event_interruptible_timeout(sdev->faults.wait,
				!sim_fault(sdev, SIM_FAULT_NOT_WOKEN), ret);
	return ret;
}

/* ---- switches ---- */

/* Under switch_lock: let go of what no fault holds any more. */
static void sim_fault_settle(struct sim_device *sdev)
{
	wake_up_all(&sdev->faults.wait);
	if (!sim_fault(sdev, SIM_FAULT_PENDING))
		sim_fault_unpark(sdev);
	if (!sim_fault(sdev, SIM_FAULT_FAILS))
		WRITE_ONCE(sdev->faults.wedged, false);
	if (!sim_fault(sdev, SIM_FAULT_FREED)) {
		struct sim_fence *spare = xchg(&sdev->faults.spare, NULL);

		if (spare)
			sim_fence_free(spare);
	}
}

void sim_fault_all_off(struct sim_device *sdev)
{
	u32 i;

	mutex_lock(&sdev->faults.switch_lock);
	for (i = 0; i < SIM_NUM_FAULTS; i++)
		WRITE_ONCE(sdev->faults.value[i], 0);
	sim_fault_settle(sdev);
	mutex_unlock(&sdev->faults.switch_lock);
}

/* What a fault needs before it can be on. Under switch_lock. */
static int sim_fault_prepare(struct sim_device *sdev, u32 fault)
{
	if (fault == SIM_FAULT_MODESET_LOCKS && !drm_core_check_feature(&sdev->drm, DRIVER_MODESET))
		return -EOPNOTSUPP;
	if (fault == SIM_FAULT_FREED && !sdev->faults.spare) {
		sdev->faults.spare = sim_fence_alloc(sdev->core);
		if (!sdev->faults.spare)
			return -ENOMEM;
	}
	return 0;
}

/* "name" or "name=VALUE". */
static int sim_fault_set(struct sim_device *sdev, char *word)
{
	char *number = word;
	u32 i, value;
	int ret = 0;

	word = strsep(&number, "=");
	for (i = 0; i < SIM_NUM_FAULTS; i++)
		if (!strcmp(word, sim_fault_table[i].name))
			break;
	if (i == SIM_NUM_FAULTS)
		return -EINVAL;
	value = sim_fault_table[i].preset ?: 1;
	if (number)
		ret = kstrtou32(number, 0, &value);
	if (ret)
		return ret;

	mutex_lock(&sdev->faults.switch_lock);
	if (value)
		ret = sim_fault_prepare(sdev, i);
	if (!ret) {
		WRITE_ONCE(sdev->faults.value[i], value);
		sim_fault_settle(sdev);
	}
	mutex_unlock(&sdev->faults.switch_lock);
	return ret;
}

static ssize_t sim_fault_write(struct file *file, const char __user *from, size_t count,
			       loff_t *pos)
{
	struct sim_device *sdev = ((struct seq_file *)file->private_data)->private;
	char buf[64], *word;
	int ret = 0;

	if (count >= sizeof(buf))
		return -EINVAL;
	if (copy_from_user(buf, from, count))
		return -EFAULT;
	buf[count] = '\0';
	word = strim(buf);
	if (*word)
		ret = sim_fault_set(sdev, word);
	else
		sim_fault_all_off(sdev);
	return ret ?: count;
}

static int sim_fault_show(struct seq_file *m, void *unused)
{
	struct sim_device *sdev = m->private;
	u32 i;

	for (i = 0; i < SIM_NUM_FAULTS; i++) {
		const struct sim_fault_row *row = &sim_fault_table[i];

		seq_printf(m, "%-20s %8u  %-8s %s: %s", row->name, sim_fault(sdev, i),
			   row->kind, row->where, row->help);
		if (row->preset)
			seq_printf(m, " (%u)", row->preset);
		seq_putc(m, '\n');
	}
	return 0;
}

static int sim_fault_open(struct inode *inode, struct file *file)
{
	return single_open(file, sim_fault_show, inode->i_private);
}

const struct file_operations sim_fault_fops = {
	.owner = THIS_MODULE,
	.open = sim_fault_open,
	.read = seq_read,
	.write = sim_fault_write,
	.llseek = seq_lseek,
	.release = single_release,
};

static void sim_fault_release(struct drm_device *drm, void *data)
{
	struct sim_faults *faults = data;

	dma_resv_fini(&faults->resv);
	mutex_destroy(&faults->own_lock);
	mutex_destroy(&faults->switch_lock);
}

int sim_fault_create(struct sim_device *sdev)
{
	mutex_init(&sdev->faults.switch_lock);
	mutex_init(&sdev->faults.own_lock);
	dma_resv_init(&sdev->faults.resv);
	init_waitqueue_head(&sdev->faults.wait);
	spin_lock_init(&sdev->faults.parked_lock);
	INIT_LIST_HEAD(&sdev->faults.parked);
	return drmm_add_action_or_reset(&sdev->drm, sim_fault_release, &sdev->faults);
}
