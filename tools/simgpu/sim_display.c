// SPDX-License-Identifier: GPL-2.0
/*
 * Modesetting: the CRTC, its plane, and the commits.
 *
 * Buffers have a kernel address before they are shown, and commits wait for
 * their vblank, never with a time limit shorter than a reset takes.
 */
#include <linux/workqueue.h>

#include <drm/drm_atomic.h>
#include <drm/drm_atomic_helper.h>
#include <drm/drm_atomic_state_helper.h>
#include <drm/drm_fourcc.h>
#include <drm/drm_gem_atomic_helper.h>
#include <drm/drm_gem_framebuffer_helper.h>
#include <drm/drm_managed.h>
#include <drm/drm_vblank.h>

#include "sim_display.h"

static const u32 sim_formats[] = { DRM_FORMAT_XRGB8888 };

static int sim_plane_prepare_fb(struct drm_plane *plane, struct drm_plane_state *state)
{
	int ret;

	if (!state->fb)
		return 0;
	if (to_sim_bo(state->fb->obj[0])->user)
		return -EPERM;
	ret = sim_bo_map(to_sim_bo(state->fb->obj[0]));
	if (ret)
		return ret;
	return drm_gem_plane_helper_prepare_fb(plane, state);
}

static int sim_plane_check(struct drm_plane *plane, struct drm_atomic_state *state)
{
	struct drm_plane_state *new = drm_atomic_get_new_plane_state(state, plane);
	struct drm_crtc_state *crtc_state;

	if (!new->crtc)
		return 0;
	crtc_state = drm_atomic_get_new_crtc_state(state, new->crtc);
	return drm_atomic_helper_check_plane_state(new, crtc_state, DRM_PLANE_NO_SCALING,
						   DRM_PLANE_NO_SCALING, false, true);
}

static void sim_plane_update(struct drm_plane *plane, struct drm_atomic_state *state)
{
	const struct drm_plane_state *new = drm_atomic_get_new_plane_state(state, plane);
	struct sim_surface surface = {};

	if (new->visible) {
		surface.fb = new->fb;
		surface.x = new->src.x1 >> 16;
		surface.y = new->src.y1 >> 16;
	}
	sim_scan_show(&to_sim_display(plane->dev)->scan, &surface);
}

static void sim_plane_disable(struct drm_plane *plane, struct drm_atomic_state *state)
{
	const struct sim_surface black = {};

	sim_scan_show(&to_sim_display(plane->dev)->scan, &black);
}

static const struct drm_plane_helper_funcs sim_plane_helper_funcs = {
	.prepare_fb = sim_plane_prepare_fb,
	.atomic_check = sim_plane_check,
	.atomic_update = sim_plane_update,
	.atomic_disable = sim_plane_disable,
};

static const struct drm_plane_funcs sim_plane_funcs = {
	.update_plane = drm_atomic_helper_update_plane,
	.disable_plane = drm_atomic_helper_disable_plane,
	.destroy = drm_plane_cleanup,
	.reset = drm_atomic_helper_plane_reset,
	.atomic_duplicate_state = drm_atomic_helper_plane_duplicate_state,
	.atomic_destroy_state = drm_atomic_helper_plane_destroy_state,
};

static void sim_crtc_enable(struct drm_crtc *crtc, struct drm_atomic_state *state)
{
	sim_scan_enable(&crtc_to_display(crtc)->scan, &crtc->state->adjusted_mode);
	drm_crtc_vblank_on(crtc);
}

/* The event of a commit that switches the CRTC off is due when it is off. */
static void sim_crtc_disable(struct drm_crtc *crtc, struct drm_atomic_state *state)
{
	drm_crtc_vblank_off(crtc);
	sim_scan_disable(&crtc_to_display(crtc)->scan);

	spin_lock_irq(&crtc->dev->event_lock);
	if (crtc->state->event && !crtc->state->active) {
		drm_crtc_send_vblank_event(crtc, crtc->state->event);
		crtc->state->event = NULL;
	}
	spin_unlock_irq(&crtc->dev->event_lock);
}

static void sim_crtc_flush(struct drm_crtc *crtc, struct drm_atomic_state *state)
{
	struct drm_pending_vblank_event *event = crtc->state->event;

	if (!event)
		return;
	crtc->state->event = NULL;

	spin_lock_irq(&crtc->dev->event_lock);
	sim_fault_flip(to_sim_device(crtc->dev), event);
	if (drm_crtc_vblank_get(crtc))
		drm_crtc_send_vblank_event(crtc, event);
	else
		drm_crtc_arm_vblank_event(crtc, event);
	spin_unlock_irq(&crtc->dev->event_lock);
}

static const struct drm_crtc_helper_funcs sim_crtc_helper_funcs = {
	.atomic_enable = sim_crtc_enable,
	.atomic_disable = sim_crtc_disable,
	.atomic_flush = sim_crtc_flush,
};

static const struct drm_crtc_funcs sim_crtc_funcs = {
	.set_config = drm_atomic_helper_set_config,
	.page_flip = drm_atomic_helper_page_flip,
	.reset = drm_atomic_helper_crtc_reset,
	.atomic_duplicate_state = drm_atomic_helper_crtc_duplicate_state,
	.atomic_destroy_state = drm_atomic_helper_crtc_destroy_state,
	.enable_vblank = sim_vblank_enable,
	.disable_vblank = sim_vblank_disable,
	.get_vblank_counter = sim_vblank_counter,
	.get_vblank_timestamp = sim_vblank_timestamp,
	.get_crc_sources = sim_crc_sources,
	.set_crc_source = sim_crc_set,
	.verify_crc_source = sim_crc_verify,
};

static void sim_commit_tail(struct drm_atomic_state *state)
{
	struct drm_device *drm = state->dev;

	drm_atomic_helper_commit_modeset_disables(drm, state);
	drm_atomic_helper_commit_modeset_enables(drm, state);
	drm_atomic_helper_commit_planes(drm, state, DRM_PLANE_COMMIT_ACTIVE_ONLY);
	drm_atomic_helper_commit_hw_done(state);
	drm_atomic_helper_wait_for_flip_done(drm, state);
	drm_atomic_helper_cleanup_planes(drm, state);
}

static const struct drm_mode_config_helper_funcs sim_mode_config_helper_funcs = {
	.atomic_commit_tail = sim_commit_tail,
};

/*
 * Jobs that write what is to be shown are waited for here, under the modeset
 * locks. The helper's own wait can be ended by its fences alone; with the remedy
 * that wakes waiters a blocking commit has waited before it comes there.
 */
static int sim_commit(struct drm_device *drm, struct drm_atomic_state *state, bool nonblock)
{
	struct drm_plane_state *new;
	struct drm_plane *plane;
	long ret;
	int i;

	if (nonblock || sim_remedy(NULL) != SIM_REMEDY_RESTART)
		return drm_atomic_helper_commit(drm, state, nonblock);

	ret = drm_atomic_helper_prepare_planes(drm, state);	/* collects the fences */
	if (ret)
		return ret;
	for_each_new_plane_in_state(state, plane, new, i)
		if (new->fence && ret >= 0)
			ret = sim_remedy_wait_locked(to_sim_device(drm), new->fence);
	drm_atomic_helper_unprepare_planes(drm, state);
	return ret < 0 ? ret : drm_atomic_helper_commit(drm, state, nonblock);
}

static const struct drm_mode_config_funcs sim_mode_config_funcs = {
	.fb_create = drm_gem_fb_create,
	.atomic_check = drm_atomic_helper_check,
	.atomic_commit = sim_commit,
};

static void sim_display_release(struct drm_device *drm, void *data)
{
	destroy_workqueue(data);
}

static int sim_crtc_create(struct sim_display *display)
{
	struct drm_device *drm = &display->sdev->drm;
	int ret;

	/* the chip has one plane: nothing is ever in front of it */
	ret = drm_universal_plane_init(drm, &display->primary, 1, &sim_plane_funcs, sim_formats,
				       ARRAY_SIZE(sim_formats), NULL, DRM_PLANE_TYPE_PRIMARY, NULL);
	if (ret)
		return ret;
	drm_plane_helper_add(&display->primary, &sim_plane_helper_funcs);

	ret = drmm_crtc_init_with_planes(drm, &display->crtc, &display->primary, NULL,
					 &sim_crtc_funcs, NULL);
	if (ret)
		return ret;
	drm_crtc_helper_add(&display->crtc, &sim_crtc_helper_funcs);
	return 0;
}

int sim_display_create(struct sim_device *sdev)
{
	struct drm_device *drm = &sdev->drm;
	struct sim_display *display;
	int ret;

	display = drmm_kzalloc(drm, sizeof(*display), GFP_KERNEL);
	if (!display)
		return -ENOMEM;
	display->sdev = sdev;
	sim_scan_init(&display->scan);
	sim_crc_init(&display->crc);
	sim_restore_init(display);
	display->wq = alloc_workqueue("simgpu-display", WQ_UNBOUND, 0);
	if (!display->wq)
		return -ENOMEM;
	ret = drmm_add_action_or_reset(drm, sim_display_release, display->wq);
	if (ret)
		return ret;

	ret = drmm_mode_config_init(drm);
	if (ret)
		return ret;
	drm->mode_config.max_width = SIM_MAX_SIZE;
	drm->mode_config.max_height = SIM_MAX_SIZE;
	drm->mode_config.preferred_depth = 24;
	drm->mode_config.funcs = &sim_mode_config_funcs;
	drm->mode_config.helper_private = &sim_mode_config_helper_funcs;

	ret = sim_crtc_create(display);
	if (ret)
		return ret;
	ret = sim_connector_create(display);
	if (ret)
		return ret;
	ret = drm_vblank_init(drm, 1);
	if (ret)
		return ret;
	drm->max_vblank_count = U32_MAX;
	drm->vblank_disable_immediate = true;
	drm_mode_config_reset(drm);
	sdev->display = display;
	return 0;
}

/* The rings are stopped: commits that waited for jobs go on, no reset comes. */
void sim_display_stop(struct sim_device *sdev)
{
	struct sim_display *display = sdev->display;

	sim_restore_flush(display);
	drm_atomic_helper_shutdown(&sdev->drm);
	hrtimer_cancel(&display->scan.timer);
	flush_work(&display->crc.work);
}
