/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The display: one CRTC, its primary plane, one monitor that never leaves.
 *
 * The modelled chip is struct sim_scan. A reset of the GPU wipes its registers,
 * so the driver keeps what it last wrote, to write it again afterwards.
 */
#ifndef __SIM_DISPLAY_H__
#define __SIM_DISPLAY_H__

#include <linux/hrtimer.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include <drm/drm_connector.h>
#include <drm/drm_crtc.h>
#include <drm/drm_encoder.h>
#include <drm/drm_framebuffer.h>
#include <drm/drm_plane.h>

#include "sim.h"

#define SIM_MAX_SIZE	2048		/* pixels, each way */

/* What a plane shows. The commits keep fb alive, until after its last vblank. */
struct sim_surface {
	struct drm_framebuffer *fb;	/* NULL is black */
	u32 x, y;			/* of the first visible pixel */
};

struct sim_regs {
	bool on;			/* the timing generator */
	bool irq;			/* the vblank interrupt */
	bool masked;			/* and it goes nowhere: a fault */
	u32 invert;			/* bits of each pixel: a fault */
	u32 width, height;
	u32 frame_ns;
	struct sim_surface surface;	/* taken over at vblank */
};

/* The vblank counter and its timestamps follow from the clock alone. */
struct sim_scan {
	spinlock_t lock;		/* taken in hardirqs, inside DRM's vblank locks */
	struct sim_regs want;		/* what the driver last wrote */
	struct sim_regs hw;		/* what the chip has */
	u32 frames;			/* that passed before start */
	ktime_t start;			/* of frame 0 since the generator was switched on */
	struct hrtimer timer;		/* runs while the interrupt is on */
};

/* One frame on its way to debugfs; the worker owns it while it is busy. */
struct sim_crc {
	struct work_struct work;
	bool enabled;			/* sim_scan.lock */
	bool busy;			/* sim_scan.lock */
	struct sim_surface surface;	/* with a reference to fb */
	u32 width, height;
	u32 invert;
	u32 frame;
	u32 row[SIM_MAX_SIZE];
};

struct sim_display {
	struct sim_device *sdev;
	struct drm_crtc crtc;
	struct drm_plane primary;
	struct drm_encoder encoder;
	struct drm_connector connector;
	struct workqueue_struct *wq;
	struct work_struct restart_work;
	struct work_struct restore_work;
	struct work_struct tell_work;
	atomic_t tales[SIM_NUM_TALES];	/* not yet told to userspace */
	struct sim_scan scan;
	struct sim_crc crc;
};

#define crtc_to_display(c)	container_of(c, struct sim_display, crtc)
#define to_sim_display(drm)	(to_sim_device(drm)->display)

/* sim_connector.c */
int sim_connector_create(struct sim_display *display);

/* sim_vblank.c */
void sim_scan_init(struct sim_scan *scan);
void sim_scan_enable(struct sim_scan *scan, const struct drm_display_mode *mode);
void sim_scan_disable(struct sim_scan *scan);
void sim_scan_show(struct sim_scan *scan, const struct sim_surface *surface);
void sim_scan_clobber(struct sim_scan *scan);
void sim_scan_restart(struct sim_scan *scan);
void sim_scan_restore(struct sim_scan *scan);
int sim_vblank_enable(struct drm_crtc *crtc);
void sim_vblank_disable(struct drm_crtc *crtc);
u32 sim_vblank_counter(struct drm_crtc *crtc);
bool sim_vblank_timestamp(struct drm_crtc *crtc, int *max_error, ktime_t *time, bool in_irq);

/* sim_crc.c */
void sim_crc_init(struct sim_crc *crc);
bool sim_crc_take(struct sim_display *display);
void sim_crc_queue(struct sim_display *display);
const char *const *sim_crc_sources(struct drm_crtc *crtc, size_t *count);
int sim_crc_verify(struct drm_crtc *crtc, const char *source, size_t *values);
int sim_crc_set(struct drm_crtc *crtc, const char *source);

/* sim_restore.c */
void sim_restore_init(struct sim_display *display);
void sim_restore_flush(struct sim_display *display);

#endif
