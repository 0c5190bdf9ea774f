// SPDX-License-Identifier: GPL-2.0
/*
 * Faults on demand: the table and its switches. Each row does what it says, in the
 * file of its kind and never by printing; debugfs switches it. All are off until
 * then, and off again when the device goes: whoever waits for that, wakes.
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#include <drm/drm_drv.h>
#include <drm/drm_managed.h>

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
	[SIM_FAULT_FREED_SILENT] = {
		"fence_freed_silent", "fence", "recovery",
		"free a hw fence unsignaled, of which nobody is told, once" },
	[SIM_FAULT_LATE] = {
		"fence_late", "fence", "recovery", "end the jobs VALUE ms late", 60000 },
	[SIM_FAULT_TWICE] = {
		"recover_twice", "fence", "timeout", "recover twice from one timeout" },
	[SIM_FAULT_BLAME] = {
		"innocent_blamed", "fence", "CTX",
		"call every context guilty that saw a reset" },
	[SIM_FAULT_EINTR] = {
		"wait_eintr", "wait", "WAIT_CS, WAIT_FENCES",
		"EINTR without a signal, when a reset comes" },
	[SIM_FAULT_ERRNO_512] = {
		"wait_errno_512", "wait", "WAIT_CS, WAIT_FENCES",
		"ERESTARTSYS without a signal, when a reset comes" },
	[SIM_FAULT_NOT_WOKEN] = {
		"wait_not_woken", "wait", "WAIT_CS, WAIT_FENCES",
		"sleep on after a reset, until timeout or switched off" },
	[SIM_FAULT_DEADLOCK] = {
		"modeset_deadlock", "wait", "recovery",
		"need modeset locks whose holder waits for the guilty job, until switched off" },
	[SIM_FAULT_MODE_LOST] = {
		"mode_lost", "display", "restore", "leave the display off until the next modeset" },
	[SIM_FAULT_VBLANK_DEAD] = {
		"vblank_dead", "display", "restore",
		"keep the vblank interrupt masked until the next modeset" },
	[SIM_FAULT_FLIP_LOST] = {
		"flip_lost", "display", "commit", "lose the event of the first flip after a reset" },
	[SIM_FAULT_FRAME_CORRUPT] = {
		"frame_corrupt", "display", "restore",
		"show pixels inverted in the bits of VALUE until the next modeset", 0xff },
	[SIM_FAULT_DUMP_MISSING] = {
		"dump_missing", "dump", "after reset", "make no devcoredump" },
	[SIM_FAULT_DUMP_CUT] = {
		"dump_truncated", "dump", "after reset", "cut the devcoredump in half" },
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

/* At its very start, in the scheduler's signalling section. */
void sim_fault_begin(struct sim_device *sdev, struct sim_job *guilty)
{
	sim_fault_locking(sdev, guilty);
	sim_fault_machine(sdev);
}

/* Under switch_lock: let go of what no fault holds any more. */
static void sim_fault_settle(struct sim_device *sdev)
{
	wake_up_all(&sdev->faults.wait);
	sim_fault_settle_fence(sdev);
	if (!sim_fault(sdev, SIM_FAULT_FAILS))
		WRITE_ONCE(sdev->faults.wedged, false);
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
	switch (fault) {
	case SIM_FAULT_FREED:
	case SIM_FAULT_FREED_SILENT:
		return sim_fault_prepare_fence(sdev);
	case SIM_FAULT_FLIP_LOST:
		sim_fault_prepare_flip(sdev);
		break;
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

	flush_work(&faults->holder);
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
	INIT_WORK(&sdev->faults.holder, sim_fault_hold);
	return drmm_add_action_or_reset(&sdev->drm, sim_fault_release, &sdev->faults);
}
