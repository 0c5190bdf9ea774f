// SPDX-License-Identifier: GPL-2.0
/*
 * The PCI driver, the DRM driver, and open files.
 *
 * The device that it binds is QEMU's ati-vga. Nothing of that hardware is
 * touched: it lends its PCI address, so that unbind, rebind, udev and the
 * device links in sysfs are what they are on a real card.
 */
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/mm.h>

#include <drm/drm_drv.h>
#include <drm/drm_fbdev_shmem.h>
#include <drm/drm_ioctl.h>
#include <drm/drm_managed.h>

#include "sim.h"

static int sim_open(struct drm_device *drm, struct drm_file *file)
{
	struct sim_file *sfile;

	sfile = kzalloc(sizeof(*sfile), GFP_KERNEL);
	if (!sfile)
		return -ENOMEM;
	sfile->vm = sim_vm_create();
	if (!sfile->vm) {
		kfree(sfile);
		return -ENOMEM;
	}
	xa_init_flags(&sfile->ctxs, XA_FLAGS_ALLOC1);
	xa_init_flags(&sfile->lists, XA_FLAGS_ALLOC1);
	file->driver_priv = sfile;
	return 0;
}

static void sim_postclose(struct drm_device *drm, struct drm_file *file)
{
	struct sim_file *sfile = file->driver_priv;

	sim_ctx_close(sfile);
	sim_list_close(sfile);
	sim_vm_put(sfile->vm);
	kfree(sfile);
}

#define SIM_IOCTL(name, func) \
	DRM_IOCTL_DEF_DRV(AMDGPU_##name, func, DRM_AUTH | DRM_RENDER_ALLOW)

static const struct drm_ioctl_desc sim_ioctls[] = {
	SIM_IOCTL(GEM_CREATE, sim_gem_create_ioctl),
	SIM_IOCTL(GEM_MMAP, sim_gem_mmap_ioctl),
	SIM_IOCTL(CTX, sim_ctx_ioctl),
	SIM_IOCTL(BO_LIST, sim_bo_list_ioctl),
	SIM_IOCTL(CS, sim_cs_ioctl),
	SIM_IOCTL(INFO, sim_info_ioctl),
	SIM_IOCTL(GEM_METADATA, sim_gem_metadata_ioctl),
	SIM_IOCTL(GEM_WAIT_IDLE, sim_gem_wait_idle_ioctl),
	SIM_IOCTL(GEM_VA, sim_gem_va_ioctl),
	SIM_IOCTL(WAIT_CS, sim_wait_cs_ioctl),
	SIM_IOCTL(GEM_OP, sim_gem_op_ioctl),
	SIM_IOCTL(WAIT_FENCES, sim_wait_fences_ioctl),
	SIM_IOCTL(GEM_USERPTR, sim_gem_userptr_ioctl),
	SIM_IOCTL(FENCE_TO_HANDLE, sim_fence_to_handle_ioctl),
};

DEFINE_DRM_GEM_FOPS(sim_fops);

static const struct drm_driver sim_drm_driver = {
	.driver_features = DRIVER_GEM | DRIVER_RENDER | DRIVER_SYNCOBJ | DRIVER_SYNCOBJ_TIMELINE |
			   DRIVER_MODESET | DRIVER_ATOMIC,
	.open = sim_open,
	.postclose = sim_postclose,
	.gem_create_object = sim_gem_create_object,
	.dumb_create = sim_gem_dumb_create,
	.gem_prime_import_sg_table = drm_gem_shmem_prime_import_sg_table,
	.debugfs_init = sim_debugfs_init,
	.ioctls = sim_ioctls,
	.num_ioctls = ARRAY_SIZE(sim_ioctls),
	.fops = &sim_fops,
	.name = "amdgpu",
	.desc = "AMD GPU (software)",
	.date = "20150101",
	.major = 3,
	.minor = 61,
};

/* A quarter of memory each, so that BOs, which stay pinned, leave room. */
static void sim_size_memory(struct sim_device *sdev)
{
	u64 quarter = ((u64)totalram_pages() << PAGE_SHIFT) / 4;

	sdev->vram_size = ALIGN_DOWN(min_t(u64, SZ_256M, quarter), SZ_1M);
	sdev->gtt_size = sdev->vram_size;
}

static int sim_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct sim_device *sdev;
	u32 i;
	int ret;

	sdev = devm_drm_dev_alloc(&pdev->dev, &sim_drm_driver, struct sim_device, drm);
	if (IS_ERR(sdev))
		return PTR_ERR(sdev);

	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;

	for (i = 0; i < SIM_NUM_IPS; i++)
		sdev->sched_mask[i] = sim_ip_rings(i);
	sim_size_memory(sdev);
	ret = drmm_mutex_init(&sdev->drm, &sdev->notifier_lock);
	if (ret)
		return ret;

	sim_remedy_init(sdev);
	ret = sim_fault_create(sdev);
	if (ret)
		return ret;
	ret = sim_display_create(sdev);
	if (ret)
		return ret;
	ret = sim_coredump_create(sdev);
	if (ret)
		return ret;
	ret = sim_reset_create(sdev);
	if (ret)
		return ret;
	ret = sim_rings_create(sdev);
	if (ret)
		return ret;
	ret = sim_rings_start(sdev);
	if (ret)
		return ret;

	pci_set_drvdata(pdev, sdev);
	ret = drm_dev_register(&sdev->drm, 0);
	if (ret) {
		sim_rings_stop(sdev);
		return ret;
	}
	if (sim_fbdev)
		drm_fbdev_shmem_setup(&sdev->drm, 32);
	dev_info(&pdev->dev, "software GPU: %lluM of VRAM, %u rings\n",
		 sdev->vram_size >> 20, SIM_NUM_RINGS);
	return 0;
}

static void sim_remove(struct pci_dev *pdev)
{
	struct sim_device *sdev = pci_get_drvdata(pdev);

	drm_dev_unplug(&sdev->drm);
	sim_fault_all_off(sdev);
	sim_rings_stop(sdev);
	sim_display_stop(sdev);
}

static const struct pci_device_id sim_pci_ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_ATI, 0x5046) },	/* QEMU: -device ati-vga */
	{ }
};
MODULE_DEVICE_TABLE(pci, sim_pci_ids);

static struct pci_driver sim_pci_driver = {
	.name = "amdgpu",
	.id_table = sim_pci_ids,
	.probe = sim_probe,
	.remove = sim_remove,
	.driver.pm = pm_sleep_ptr(&sim_pm_ops),
};

static int __init sim_init(void)
{
	int ret;

	ret = sim_param_init();
	if (ret)
		return ret;
	ret = sim_job_init();
	if (ret)
		return ret;
	ret = pci_register_driver(&sim_pci_driver);
	if (ret)
		sim_job_exit();
	return ret;
}

static void __exit sim_exit(void)
{
	pci_unregister_driver(&sim_pci_driver);
	sim_job_exit();
	rcu_barrier();	/* fences free themselves after a grace period */
}

module_init(sim_init);
module_exit(sim_exit);

MODULE_DESCRIPTION("Software GPU with amdgpu's userspace ABI");
MODULE_IMPORT_NS(DMA_BUF);
MODULE_LICENSE("GPL");
