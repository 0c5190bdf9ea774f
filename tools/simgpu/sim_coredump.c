// SPDX-License-Identifier: GPL-2.0
/*
 * The devcoredump of a reset. Recovery only copies what it sees into memory
 * that was there before; the text is made later, where allocation is allowed.
 * A reset whose predecessor has not become text yet leaves none, as with
 * devcoredump itself.
 */
#include <linux/devcoredump.h>
#include <linux/seq_buf.h>
#include <linux/timekeeping.h>
#include <linux/vmalloc.h>

#include <generated/utsrelease.h>

#include <drm/drm_managed.h>

#include "sim.h"

#define SIM_RECENT	16		/* jobs per ring */
#define SIM_SLOT	4		/* dwords of each in its contents */
#define SIM_DUMP_IB	64		/* dwords of the guilty job's first IB */
#define SIM_DUMP_SIZE	SZ_64K

struct sim_recent {
	u32 seq;			/* 0: none */
	u32 num_ibs;
	struct sim_ib ib;		/* the first */
	pid_t tgid;
	char comm[TASK_COMM_LEN];
};

struct sim_dump_ring {
	u32 signaled, emitted;
	struct sim_recent recent[SIM_RECENT];
};

struct sim_dump {
	struct sim_recent recent[SIM_NUM_RINGS][SIM_RECENT];	/* sim_ring.lock */

	/* below: recovery's until full, then the worker's until it is not */
	bool full;
	int reset;
	struct timespec64 time;
	struct sim_ring *guilty;	/* NULL: a person asked for the reset */
	u32 seq;
	pid_t pid, tgid;
	char comm[TASK_COMM_LEN], group_comm[TASK_COMM_LEN];
	u32 ib[SIM_DUMP_IB];
	u32 ib_dwords;
	struct sim_dump_ring ring[SIM_NUM_RINGS];
};

/* A job goes onto its ring. The caller holds ring->lock. */
void sim_coredump_note(struct sim_ring *ring, const struct sim_job *job)
{
	u32 seq = job->hw->base.seqno;
	struct sim_recent *recent = &ring->sdev->dump->recent[ring->index][seq % SIM_RECENT];

	lockdep_assert_held(&ring->lock);
	recent->seq = seq;
	recent->num_ibs = job->num_ibs;
	recent->ib = job->ib[0];
	recent->tgid = job->tgid;
	memcpy(recent->comm, job->group_comm, sizeof(recent->comm));
}

static void sim_coredump_guilty(struct sim_dump *dump, const struct sim_job *job)
{
	u64 fault;

	dump->guilty = to_sim_ring(job->base.sched);
	dump->seq = job->hw->base.seqno;
	dump->pid = job->pid;
	dump->tgid = job->tgid;
	memcpy(dump->comm, job->comm, sizeof(dump->comm));
	memcpy(dump->group_comm, job->group_comm, sizeof(dump->group_comm));
	dump->ib_dwords = min_t(u32, job->ib[0].dwords, SIM_DUMP_IB);
	if (sim_vm_read(job->vm, job->ib[0].va, dump->ib, dump->ib_dwords * 4, &fault))
		dump->ib_dwords = 0;
}

static bool sim_dump_full(const struct sim_dump *dump)
{
	return smp_load_acquire(&dump->full);	/* pairs with sim_dump_pass() */
}

static void sim_dump_pass(struct sim_dump *dump, bool full)
{
	smp_store_release(&dump->full, full);	/* pairs with sim_dump_full() */
}

/* Called by recovery, before it ends the jobs; guilty is NULL without a hang. */
void sim_coredump_capture(struct sim_device *sdev, const struct sim_job *guilty)
{
	struct sim_dump *dump = sdev->dump;
	u32 i;

	if (sim_dump_full(dump))
		return;
	ktime_get_ts64(&dump->time);
	dump->reset = atomic_read(&sdev->reset_counter);
	dump->guilty = NULL;
	dump->ib_dwords = 0;
	if (guilty)
		sim_coredump_guilty(dump, guilty);
	for (i = 0; i < SIM_NUM_RINGS; i++) {
		struct sim_ring *ring = &sdev->core->ring[i];

		spin_lock(&ring->lock);
		dump->ring[i].signaled = READ_ONCE(ring->signaled);
		dump->ring[i].emitted = ring->emitted;
		memcpy(dump->ring[i].recent, dump->recent[i], sizeof(dump->recent[i]));
		spin_unlock(&ring->lock);
	}
	sim_dump_pass(dump, true);
}

/* As amdgpu prints a ring buffer; ours has a slot of four dwords for each recent job. */
static void sim_coredump_contents(struct seq_buf *out, const struct sim_dump_ring *state)
{
	u32 i, k;

	seq_buf_printf(out, "Rptr: 0x%x Wptr: 0x%x RB mask: %x\n", state->signaled * SIM_SLOT,
		       state->emitted * SIM_SLOT, SIM_RECENT * SIM_SLOT - 1);
	seq_buf_printf(out, "Ring size in dwords: %d\nRing contents\nOffset \t Value\n",
		       SIM_RECENT * SIM_SLOT);
	for (i = 0; i < SIM_RECENT; i++) {
		const struct sim_recent *job = &state->recent[i];
		const u32 slot[SIM_SLOT] = {
			job->seq, lower_32_bits(job->ib.va), upper_32_bits(job->ib.va),
			job->ib.dwords,
		};

		for (k = 0; k < SIM_SLOT; k++)
			seq_buf_printf(out, "0x%x \t 0x%x\n", (i * SIM_SLOT + k) * 4, slot[k]);
	}
}

static void sim_coredump_ring(struct seq_buf *out, const struct sim_ring *ring,
			      const struct sim_dump_ring *state)
{
	u32 i;

	seq_buf_printf(out, "ring name: %s\nsignaled seq=%u, emitted seq=%u\n", ring->name,
		       state->signaled, state->emitted);
	for (i = 1; i <= SIM_RECENT; i++) {
		const struct sim_recent *job = &state->recent[(state->emitted + i) % SIM_RECENT];

		if (!job->seq)
			continue;
		seq_buf_printf(out, "job seq=%u %s process %s PID: %d",
			       job->seq, (s32)(job->seq - state->signaled) > 0 ? "pending" : "done",
			       job->comm, job->tgid);
		seq_buf_printf(out, " IBs: %u first IB: 0x%012llx %u dwords\n",
			       job->num_ibs, job->ib.va, job->ib.dwords);
	}
	sim_coredump_contents(out, state);
	seq_buf_puts(out, "\n");
}

static void sim_coredump_print(struct seq_buf *out, struct sim_device *sdev)
{
	const struct sim_dump *dump = sdev->dump;
	u32 i;

	seq_buf_puts(out, "**** AMDGPU Device Coredump ****\n");
	seq_buf_puts(out, "version: 1\n");
	seq_buf_puts(out, "kernel: " UTS_RELEASE "\n");
	seq_buf_puts(out, "module: " KBUILD_MODNAME "\n");
	seq_buf_printf(out, "time: %lld.%09ld\n", dump->time.tv_sec, dump->time.tv_nsec);
	seq_buf_printf(out, "reset: %d\n", dump->reset);
	if (dump->guilty) {
		seq_buf_printf(out, "process_name: %s PID: %d\n", dump->group_comm, dump->tgid);
		seq_buf_printf(out, "thread_name: %s TID: %d\n", dump->comm, dump->pid);
		seq_buf_puts(out, "\nRing timed out details\n");
		seq_buf_printf(out, "IP Type: %u Ring Name: %s seq=%u\n", dump->guilty->ip,
			       dump->guilty->name, dump->seq);
		for (i = 0; i < dump->ib_dwords; i++)
			seq_buf_printf(out, "IB %03x: 0x%08x\n", i * 4, dump->ib[i]);
	}
	seq_buf_puts(out, "\nRing buffer information\n");
	for (i = 0; i < SIM_NUM_RINGS; i++)
		sim_coredump_ring(out, &sdev->core->ring[i], &dump->ring[i]);
}

/* Allocates: never inside a fence signalling section. */
void sim_coredump_emit(struct sim_device *sdev)
{
	struct sim_dump *dump = sdev->dump;
	struct seq_buf out;
	char *text;

	if (!sim_dump_full(dump))
		return;
	text = vmalloc(SIM_DUMP_SIZE);
	if (text) {
		size_t size;

		seq_buf_init(&out, text, SIM_DUMP_SIZE);
		sim_coredump_print(&out, sdev);
		size = seq_buf_used(&out);
		if (sim_fault(sdev, SIM_FAULT_DUMP_CUT))
			size /= 2;
		if (sim_fault(sdev, SIM_FAULT_DUMP_MISSING))
			vfree(text);
		else
			dev_coredumpv(sdev->drm.dev, text, size, GFP_KERNEL);
	}
	sim_dump_pass(dump, false);
}

int sim_coredump_create(struct sim_device *sdev)
{
	sdev->dump = drmm_kzalloc(&sdev->drm, sizeof(*sdev->dump), GFP_KERNEL);
	return sdev->dump ? 0 : -ENOMEM;
}
