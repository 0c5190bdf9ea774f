// SPDX-License-Identifier: GPL-2.0
/* The INFO ioctl: what the device says about itself, a Navi with little of it. */
#include <linux/ktime.h>
#include <linux/pci.h>
#include <linux/uaccess.h>

#include "sim.h"

#define SIM_CLOCK_KHZ	100000	/* of the timestamp counter */
#define SIM_GB_ADDR_CONFIG 0x263e

/* The available_rings mask of an IP. */
u32 sim_ip_rings(u32 ip)
{
	switch (ip) {
	case AMDGPU_HW_IP_GFX:
		return GENMASK(SIM_NUM_GFX - 1, 0);
	case AMDGPU_HW_IP_COMPUTE:
		return GENMASK(SIM_NUM_COMPUTE - 1, 0);
	case AMDGPU_HW_IP_DMA:
		return GENMASK(SIM_NUM_SDMA - 1, 0);
	default:
		return 0;
	}
}

static int sim_info_put(const struct drm_amdgpu_info *info, const void *from, size_t size)
{
	size = min_t(size_t, size, info->return_size);
	return copy_to_user(u64_to_user_ptr(info->return_pointer), from, size) ? -EFAULT : 0;
}

static int sim_info_u32(const struct drm_amdgpu_info *info, u32 value)
{
	return sim_info_put(info, &value, sizeof(value));
}

static int sim_info_u64(const struct drm_amdgpu_info *info, u64 value)
{
	return sim_info_put(info, &value, sizeof(value));
}

static int sim_info_device(struct sim_device *sdev, const struct drm_amdgpu_info *info)
{
	struct pci_dev *pdev = to_pci_dev(sdev->drm.dev);
	struct drm_amdgpu_info_device dev = {
		.device_id = pdev->device,
		.chip_rev = 1,
		.external_rev = 2,
		.pci_rev = pdev->revision,
		.family = AMDGPU_FAMILY_NV,
		.num_shader_engines = 1,
		.num_shader_arrays_per_engine = 1,
		.gpu_counter_freq = SIM_CLOCK_KHZ,
		.max_engine_clock = 1000000,
		.max_memory_clock = 1000000,
		.cu_active_number = 1,
		.cu_bitmap[0][0] = 1,
		.enabled_rb_pipes_mask = 1,
		.num_rb_pipes = 1,
		.num_hw_gfx_contexts = 8,
		.pcie_gen = 1,
		.pcie_num_lanes = 1,
		.virtual_address_offset = SIM_VA_BOTTOM,
		.virtual_address_max = SIM_VA_HOLE,
		.high_va_offset = SIM_VA_HIGH,
		.high_va_max = SIM_VA_HIGH | SIM_VA_TOP,
		.virtual_address_alignment = PAGE_SIZE,
		.pte_fragment_size = SZ_2M,
		.gart_page_size = PAGE_SIZE,
		.vram_type = AMDGPU_VRAM_TYPE_GDDR6,
		.vram_bit_width = 64,
		.wave_front_size = 32,
		.num_shader_visible_vgprs = 256,
		.num_cu_per_sh = 1,
		.num_tcc_blocks = 1,
	};

	return sim_info_put(info, &dev, sizeof(dev));
}

static int sim_info_hw_ip(const struct drm_amdgpu_info *info)
{
	static const u32 version[SIM_NUM_IPS] = { 10, 10, 5 };
	u32 ip = info->query_hw_ip.type;
	struct drm_amdgpu_info_hw_ip hw = {
		.ib_start_alignment = ip == AMDGPU_HW_IP_DMA ? 256 : 32,
		.ib_size_alignment = ip == AMDGPU_HW_IP_DMA ? 4 : 32,
		.available_rings = sim_ip_rings(ip),
	};

	if (ip >= AMDGPU_HW_IP_NUM || info->query_hw_ip.ip_instance)
		return -EINVAL;
	if (ip < SIM_NUM_IPS) {
		hw.hw_ip_version_major = version[ip];
		hw.hw_ip_version_minor = ip == AMDGPU_HW_IP_DMA ? 0 : 1;
		hw.ip_discovery_version = hw.hw_ip_version_major << 16 |
					  hw.hw_ip_version_minor << 8;
		return sim_info_put(info, &hw, sizeof(hw));
	}
	memset(&hw, 0, sizeof(hw));
	return sim_info_put(info, &hw, sizeof(hw));
}

static int sim_info_firmware(const struct drm_amdgpu_info *info)
{
	struct drm_amdgpu_info_firmware fw = { .ver = 1, .feature = 1 };

	switch (info->query_fw.fw_type) {
	case AMDGPU_INFO_FW_GFX_ME:
	case AMDGPU_INFO_FW_GFX_PFP:
	case AMDGPU_INFO_FW_GFX_CE:
	case AMDGPU_INFO_FW_GFX_RLC:
		break;
	case AMDGPU_INFO_FW_GFX_MEC:
	case AMDGPU_INFO_FW_SDMA:
		if (info->query_fw.index >= 2)
			return -EINVAL;
		break;
	default:
		if (!info->query_fw.fw_type || info->query_fw.fw_type > AMDGPU_INFO_FW_VPE)
			return -EINVAL;
		memset(&fw, 0, sizeof(fw));
	}
	return sim_info_put(info, &fw, sizeof(fw));
}

/* There are no registers but the one that libdrm cannot do without. */
static int sim_info_registers(const struct drm_amdgpu_info *info)
{
	u32 __user *to = u64_to_user_ptr(info->return_pointer);
	u32 i, count = min(info->return_size / 4, info->read_mmr_reg.count);

	if (info->read_mmr_reg.count > 128)
		return -EINVAL;
	for (i = 0; i < info->read_mmr_reg.count; i++)
		if (info->read_mmr_reg.dword_offset + i != SIM_GB_ADDR_CONFIG)
			return -EINVAL;
	for (i = 0; i < count; i++)
		if (put_user(0x44, to + i))
			return -EFAULT;
	return 0;
}

static void sim_info_heap(struct drm_amdgpu_heap_info *heap, u64 size, atomic64_t *used)
{
	heap->total_heap_size = size;
	heap->usable_heap_size = size;
	heap->heap_usage = atomic64_read(used);
	heap->max_allocation = size / 4 * 3;
}

static int sim_info_memory(struct sim_device *sdev, const struct drm_amdgpu_info *info)
{
	struct drm_amdgpu_memory_info mem = {};

	sim_info_heap(&mem.vram, sdev->vram_size, &sdev->vram_used);
	sim_info_heap(&mem.cpu_accessible_vram, sdev->vram_size, &sdev->vram_used);
	sim_info_heap(&mem.gtt, sdev->gtt_size, &sdev->gtt_used);
	return sim_info_put(info, &mem, sizeof(mem));
}

static int sim_info_vram_gtt(struct sim_device *sdev, const struct drm_amdgpu_info *info)
{
	struct drm_amdgpu_info_vram_gtt vram_gtt = {
		.vram_size = sdev->vram_size,
		.vram_cpu_accessible_size = sdev->vram_size,
		.gtt_size = sdev->gtt_size,
	};

	return sim_info_put(info, &vram_gtt, sizeof(vram_gtt));
}

static int sim_info_vbios(const struct drm_amdgpu_info *info)
{
	struct drm_amdgpu_info_vbios vbios = {
		.name = "SIMGPU",
		.vbios_pn = "SIMGPU-1",
		.version = 1,
		.vbios_ver_str = "1",
		.date = "2026/01/01",
	};

	if (info->vbios_info.type != AMDGPU_INFO_VBIOS_INFO)
		return -EINVAL;
	return sim_info_put(info, &vbios, sizeof(vbios));
}

static int sim_info_max_ibs(const struct drm_amdgpu_info *info)
{
	u32 max[AMDGPU_HW_IP_NUM] = { SIM_MAX_IBS, SIM_MAX_IBS, SIM_MAX_IBS };

	return sim_info_put(info, max, sizeof(max));
}

static int sim_info_gds(const struct drm_amdgpu_info *info)
{
	struct drm_amdgpu_info_gds gds = {};

	return sim_info_put(info, &gds, sizeof(gds));
}

int sim_info_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	struct sim_device *sdev = to_sim_device(drm);
	const struct drm_amdgpu_info *info = data;
	u32 rings;

	if (!info->return_size || !info->return_pointer)
		return -EINVAL;

	switch (info->query) {
	case AMDGPU_INFO_ACCEL_WORKING:
		return sim_info_u32(info, 1);
	case AMDGPU_INFO_HW_IP_INFO:
		return sim_info_hw_ip(info);
	case AMDGPU_INFO_HW_IP_COUNT:
		if (info->query_hw_ip.type >= AMDGPU_HW_IP_NUM)
			return -EINVAL;
		rings = sim_ip_rings(info->query_hw_ip.type);
		return sim_info_u32(info, rings ? 1 : 0);
	case AMDGPU_INFO_TIMESTAMP:
		return sim_info_u64(info, ktime_get_ns() / (1000000 / SIM_CLOCK_KHZ));
	case AMDGPU_INFO_FW_VERSION:
		return sim_info_firmware(info);
	case AMDGPU_INFO_NUM_BYTES_MOVED:
	case AMDGPU_INFO_NUM_EVICTIONS:
	case AMDGPU_INFO_NUM_VRAM_CPU_PAGE_FAULTS:
	case AMDGPU_INFO_RAS_ENABLED_FEATURES:
		return sim_info_u64(info, 0);
	case AMDGPU_INFO_VRAM_LOST_COUNTER:
		return sim_info_u32(info, 0);
	case AMDGPU_INFO_VRAM_USAGE:
	case AMDGPU_INFO_VIS_VRAM_USAGE:
		return sim_info_u64(info, atomic64_read(&sdev->vram_used));
	case AMDGPU_INFO_GTT_USAGE:
		return sim_info_u64(info, atomic64_read(&sdev->gtt_used));
	case AMDGPU_INFO_GDS_CONFIG:
		return sim_info_gds(info);
	case AMDGPU_INFO_VRAM_GTT:
		return sim_info_vram_gtt(sdev, info);
	case AMDGPU_INFO_READ_MMR_REG:
		return sim_info_registers(info);
	case AMDGPU_INFO_DEV_INFO:
		return sim_info_device(sdev, info);
	case AMDGPU_INFO_MEMORY:
		return sim_info_memory(sdev, info);
	case AMDGPU_INFO_VBIOS:
		return sim_info_vbios(info);
	case AMDGPU_INFO_MAX_IBS:
		return sim_info_max_ibs(info);
	default:
		return -EINVAL;
	}
}
