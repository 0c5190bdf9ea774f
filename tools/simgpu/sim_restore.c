// SPDX-License-Identifier: GPL-2.0
/*
 * After a reset: the display comes back, then userspace is told.
 *
 * All that recovery must not do is done here, on a workqueue that recovery
 * never waits for: take the modeset locks, and allocate, as devcoredump and
 * uevents do whatever GFP flags they are given.
 */
#include <linux/kobject.h>

#include <drm/drm_drv.h>
#include <drm/drm_modeset_lock.h>
#include <drm/drm_print.h>

#include "sim_display.h"

/*
 * Let time go on first. A commit that waits for its vblank may hold the modeset
 * locks, and so keep the other worker waiting while the next reset comes: hence
 * a work of its own.
 */
static void sim_restart_worker(struct work_struct *work)
{
	struct sim_display *display = container_of(work, struct sim_display, restart_work);

	sim_scan_restart(&display->scan);
	queue_work(display->wq, &display->restore_work);
}

/*
 * Then the picture. A commit in its tail programs the chip by itself and may not
 * even have begun: what is restored is what was last programmed, not the newest
 * state.
 */
static void sim_restore_display(struct sim_display *display)
{
	struct drm_device *drm = &display->sdev->drm;
	struct drm_modeset_acquire_ctx ctx;
	int ret;

	DRM_MODESET_LOCK_ALL_BEGIN(drm, ctx, 0, ret);
	sim_scan_restore(&display->scan);
	DRM_MODESET_LOCK_ALL_END(drm, ctx, ret);
}

static void sim_restore_worker(struct work_struct *work)
{
	struct sim_display *display = container_of(work, struct sim_display, restore_work);

	sim_restore_display(display);
	queue_work(display->wq, &display->tell_work);
}

/* As drm_dev_wedged_event() of 6.15 and later. */
static void sim_restore_tell(struct drm_device *drm, enum sim_tale tale)
{
	bool recovered = tale == SIM_TALE_RECOVERED;
	char none[] = "WEDGED=none", rebind[] = "WEDGED=rebind";
	char *env[2] = { recovered ? none : rebind };

	drm_info(drm, "device wedged, %s\n",
		 recovered ? "but recovered through reset" : "needs recovery");
	kobject_uevent_env(&drm->primary->kdev->kobj, KOBJ_CHANGE, env);
}

/* Last, userspace. */
static void sim_tell_worker(struct work_struct *work)
{
	struct sim_display *display = container_of(work, struct sim_display, tell_work);
	struct sim_device *sdev = display->sdev;
	enum sim_tale tale;
	int count, idx;

	if (!drm_dev_enter(&sdev->drm, &idx))
		return;
	sim_coredump_emit(sdev);
	for (tale = SIM_TALE_RECOVERED; tale < SIM_NUM_TALES; tale++)
		for (count = atomic_xchg(&display->tales[tale], 0); count; count--)
			sim_restore_tell(&sdev->drm, tale);
	drm_dev_exit(idx);
}

/* Called by recovery. */
void sim_restore_clobber(struct sim_device *sdev)
{
	sim_scan_clobber(&sdev->display->scan);
}

/* Called by recovery where it has the modeset locks, although it should not. */
void sim_restore_now(struct sim_device *sdev)
{
	sim_scan_restart(&sdev->display->scan);
	sim_scan_restore(&sdev->display->scan);
}

/* Called by recovery, when the chip can be programmed again. */
void sim_restore_queue(struct sim_device *sdev, enum sim_tale tale, bool display)
{
	struct sim_display *disp = sdev->display;

	atomic_inc(&disp->tales[tale]);
	queue_work(disp->wq, display ? &disp->restart_work : &disp->tell_work);
}

/* No reset comes any more: see the last one through. */
void sim_restore_flush(struct sim_display *display)
{
	flush_work(&display->restart_work);
	flush_work(&display->restore_work);
	flush_work(&display->tell_work);
}

void sim_restore_init(struct sim_display *display)
{
	INIT_WORK(&display->restart_work, sim_restart_worker);
	INIT_WORK(&display->restore_work, sim_restore_worker);
	INIT_WORK(&display->tell_work, sim_tell_worker);
}
