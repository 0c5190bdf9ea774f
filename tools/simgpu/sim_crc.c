// SPDX-License-Identifier: GPL-2.0
/*
 * CRC of the scanned out frames: CRC-32 over the visible pixels, row by row,
 * 32 bits each with the X byte cleared. One entry per frame; frames that pass
 * while the worker is busy have none.
 */
#include <linux/crc32.h>
#include <linux/string.h>

#include <drm/drm_debugfs_crc.h>
#include <drm/drm_vblank.h>

#include "sim_display.h"

static u32 sim_crc_compute(struct sim_crc *crc)
{
	const struct sim_surface *surface = &crc->surface;
	const struct drm_framebuffer *fb = surface->fb;
	u32 x, y, sum = ~0;

	memset32(crc->row, crc->invert, crc->width);
	for (y = 0; y < crc->height; y++) {
		if (fb) {
			const u32 *from = to_sim_bo(fb->obj[0])->vaddr + fb->offsets[0] +
					  (size_t)(surface->y + y) * fb->pitches[0];

			for (x = 0; x < crc->width; x++)
				crc->row[x] = (from[surface->x + x] & 0xffffff) ^ crc->invert;
		}
		sum = crc32_le(sum, (u8 *)crc->row, crc->width * sizeof(u32));
		cond_resched();
	}
	return ~sum;
}

static void sim_crc_worker(struct work_struct *work)
{
	struct sim_crc *crc = container_of(work, struct sim_crc, work);
	struct sim_display *display = container_of(crc, struct sim_display, crc);
	u32 sum = sim_crc_compute(crc);

	drm_crtc_add_crc_entry(&display->crtc, true, crc->frame, &sum);
	if (crc->surface.fb)
		drm_framebuffer_put(crc->surface.fb);

	spin_lock_irq(&display->scan.lock);
	crc->busy = false;
	spin_unlock_irq(&display->scan.lock);
}

/* At vblank, under the lock: is this frame wanted? Then keep its picture. */
bool sim_crc_take(struct sim_display *display)
{
	struct sim_scan *scan = &display->scan;
	struct sim_crc *crc = &display->crc;

	lockdep_assert_held(&scan->lock);
	if (!crc->enabled || crc->busy)
		return false;
	crc->busy = true;
	crc->surface = scan->hw.surface;
	crc->width = scan->hw.width;
	crc->height = scan->hw.height;
	crc->invert = scan->hw.invert;
	if (crc->surface.fb)
		drm_framebuffer_get(crc->surface.fb);
	return true;
}

/* After DRM has counted the frame that was taken. */
void sim_crc_queue(struct sim_display *display)
{
	display->crc.frame = drm_crtc_accurate_vblank_count(&display->crtc);
	queue_work(display->wq, &display->crc.work);
}

static const char * const sim_crc_names[] = { "auto" };

const char *const *sim_crc_sources(struct drm_crtc *crtc, size_t *count)
{
	*count = ARRAY_SIZE(sim_crc_names);
	return sim_crc_names;
}

int sim_crc_verify(struct drm_crtc *crtc, const char *source, size_t *values)
{
	*values = 1;
	return !source || !strcmp(source, "auto") || !strcmp(source, "none") ? 0 : -EINVAL;
}

int sim_crc_set(struct drm_crtc *crtc, const char *source)
{
	struct sim_display *display = crtc_to_display(crtc);
	bool enable = source && strcmp(source, "none");
	bool was;
	int ret;

	/* frames are taken by the vblank interrupt */
	if (enable) {
		ret = drm_crtc_vblank_get(crtc);
		if (ret)
			return ret;
	}
	spin_lock_irq(&display->scan.lock);
	was = display->crc.enabled;
	display->crc.enabled = enable;
	spin_unlock_irq(&display->scan.lock);
	if (was)
		drm_crtc_vblank_put(crtc);
	return 0;
}

void sim_crc_init(struct sim_crc *crc)
{
	INIT_WORK(&crc->work, sim_crc_worker);
}
