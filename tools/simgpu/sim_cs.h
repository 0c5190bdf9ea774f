/* SPDX-License-Identifier: GPL-2.0 */
/* A submission in the making, between sim_cs.c and sim_chunk.c. */
#ifndef __SIM_CS_H__
#define __SIM_CS_H__

#include "sim.h"

struct sim_chunk {
	u32 id;
	u32 bytes;
	void *data;
};

struct sim_signal {
	struct drm_syncobj *syncobj;
	struct dma_fence_chain *chain;	/* of a timeline */
	u64 point;
};

struct sim_cs {
	struct drm_device *drm;
	struct drm_file *file;
	struct sim_file *sfile;
	struct sim_ctx *ctx;
	struct sim_entity *entity;
	u32 ip;
	u32 num_chunks;
	struct sim_chunk *chunk;
	struct sim_list *list;
	struct sim_bo *user_fence;
	u32 user_fence_offset;
	u32 num_ibs;
	struct sim_ib ib[SIM_MAX_IBS];
	struct sim_job *job;
	u32 num_signals;
	u32 max_signals;
	struct sim_signal *signal;
};

int sim_chunks_copy(struct sim_cs *cs, u64 pointers);
int sim_chunks_parse(struct sim_cs *cs);
int sim_chunks_sync(struct sim_cs *cs);

#endif
