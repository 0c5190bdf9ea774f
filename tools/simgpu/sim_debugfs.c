// SPDX-License-Identifier: GPL-2.0
/* debugfs, with the names and formats of amdgpu's. */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include <drm/drm_debugfs.h>

#include "sim.h"

/* Reading it resets the GPU and returns the result. */
static int sim_recover_get(void *data, u64 *val)
{
	*val = (s64)sim_reset_request(data);
	return 0;
}

DEFINE_DEBUGFS_ATTRIBUTE(sim_recover_fops, sim_recover_get, NULL, "%lld\n");

static int sim_fence_info_show(struct seq_file *m, void *unused)
{
	struct sim_device *sdev = m->private;
	u32 i;

	for (i = 0; i < SIM_NUM_RINGS; i++) {
		struct sim_ring *ring = &sdev->core->ring[i];

		seq_printf(m, "--- ring %u (%s) ---\n", i, ring->name);
		seq_printf(m, "Last signaled fence          0x%08x\n", READ_ONCE(ring->signaled));
		seq_printf(m, "Last emitted                 0x%08x\n", READ_ONCE(ring->emitted));
	}
	return 0;
}

DEFINE_SHOW_ATTRIBUTE(sim_fence_info);

static int sim_mask_set(struct sim_device *sdev, u32 ip, u64 val)
{
	u32 mask = val & sim_ip_rings(ip);

	if (!mask)
		return -EINVAL;
	WRITE_ONCE(sdev->sched_mask[ip], mask);
	return 0;
}

#define SIM_MASK(name, ip)							\
static int sim_##name##_mask_get(void *data, u64 *val)				\
{										\
	*val = READ_ONCE(((struct sim_device *)data)->sched_mask[ip]);		\
	return 0;								\
}										\
										\
static int sim_##name##_mask_set(void *data, u64 val)				\
{										\
	return sim_mask_set(data, ip, val);					\
}										\
										\
DEFINE_DEBUGFS_ATTRIBUTE(sim_##name##_mask_fops, sim_##name##_mask_get,		\
			 sim_##name##_mask_set, "%llu\n")

SIM_MASK(gfx, AMDGPU_HW_IP_GFX);
SIM_MASK(compute, AMDGPU_HW_IP_COMPUTE);
SIM_MASK(sdma, AMDGPU_HW_IP_DMA);

void sim_debugfs_init(struct drm_minor *minor)
{
	struct sim_device *sdev = to_sim_device(minor->dev);
	struct dentry *root = minor->debugfs_root;

	debugfs_create_file("amdgpu_gpu_recover", 0444, root, sdev, &sim_recover_fops);
	debugfs_create_file("amdgpu_fence_info", 0444, root, sdev, &sim_fence_info_fops);
	debugfs_create_file("sim_fault", 0600, root, sdev, &sim_fault_fops);
	debugfs_create_file("amdgpu_gfx_sched_mask", 0600, root, sdev, &sim_gfx_mask_fops);
	debugfs_create_file("amdgpu_compute_sched_mask", 0600, root, sdev, &sim_compute_mask_fops);
	debugfs_create_file("amdgpu_sdma_sched_mask", 0600, root, sdev, &sim_sdma_mask_fops);
}
