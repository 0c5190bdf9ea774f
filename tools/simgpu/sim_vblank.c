// SPDX-License-Identifier: GPL-2.0
/*
 * Scanout: a timing generator and double buffered plane registers.
 *
 * The vblank counter is computed from the clock, so it is exact whether or not
 * the interrupt is on. Recovery clobbers all this from inside a fence signalling
 * section, with nothing but a spinlock.
 */
#include <linux/math64.h>

#include <drm/drm_modes.h>
#include <drm/drm_vblank.h>

#include "sim_display.h"

static u32 sim_scan_elapsed(const struct sim_scan *scan)
{
	if (!scan->hw.on)
		return 0;
	return div_u64(ktime_to_ns(ktime_sub(ktime_get(), scan->start)), scan->hw.frame_ns);
}

static ktime_t sim_scan_time(const struct sim_scan *scan, u32 elapsed)
{
	return ktime_add_ns(scan->start, (u64)elapsed * scan->hw.frame_ns);
}

/*
 * Armed and disarmed only here, under the lock and without waiting for the
 * handler, which takes locks that the callers of disable_vblank hold.
 */
static void sim_scan_arm(struct sim_scan *scan)
{
	if (scan->hw.on && scan->hw.irq)
		hrtimer_start(&scan->timer, sim_scan_time(scan, sim_scan_elapsed(scan) + 1),
			      HRTIMER_MODE_ABS);
	else
		hrtimer_try_to_cancel(&scan->timer);
}

static enum hrtimer_restart sim_scan_vblank(struct hrtimer *timer)
{
	struct sim_scan *scan = container_of(timer, struct sim_scan, timer);
	struct sim_display *display = container_of(scan, struct sim_display, scan);
	unsigned long flags;
	bool crc = false, told = false;

	spin_lock_irqsave(&scan->lock, flags);
	if (scan->hw.on && scan->hw.irq) {
		told = !scan->hw.masked;
		crc = sim_crc_take(display);
		sim_scan_arm(scan);
	}
	spin_unlock_irqrestore(&scan->lock, flags);

	if (told)
		drm_crtc_handle_vblank(&display->crtc);
	if (crc)
		sim_crc_queue(display);
	return HRTIMER_NORESTART;
}

static void sim_scan_stop(struct sim_scan *scan)
{
	scan->frames += sim_scan_elapsed(scan);
	memset(&scan->hw, 0, sizeof(scan->hw));
	sim_scan_arm(scan);
}

void sim_scan_enable(struct sim_scan *scan, const struct drm_display_mode *mode)
{
	unsigned long flags;

	spin_lock_irqsave(&scan->lock, flags);
	scan->want = (struct sim_regs) {
		.on = true,
		.width = mode->crtc_hdisplay,
		.height = mode->crtc_vdisplay,
		.frame_ns = div_u64((u64)mode->crtc_htotal * mode->crtc_vtotal * NSEC_PER_MSEC,
				    mode->crtc_clock),
	};
	scan->hw = scan->want;
	scan->start = ktime_get();
	spin_unlock_irqrestore(&scan->lock, flags);
}

void sim_scan_disable(struct sim_scan *scan)
{
	unsigned long flags;

	spin_lock_irqsave(&scan->lock, flags);
	memset(&scan->want, 0, sizeof(scan->want));
	sim_scan_stop(scan);
	spin_unlock_irqrestore(&scan->lock, flags);
}

void sim_scan_show(struct sim_scan *scan, const struct sim_surface *surface)
{
	unsigned long flags;

	spin_lock_irqsave(&scan->lock, flags);
	scan->want.surface = *surface;
	scan->hw.surface = *surface;
	spin_unlock_irqrestore(&scan->lock, flags);
}

/* The reset: every register is zero. Called by recovery. */
void sim_scan_clobber(struct sim_scan *scan)
{
	unsigned long flags;

	spin_lock_irqsave(&scan->lock, flags);
	sim_scan_stop(scan);
	spin_unlock_irqrestore(&scan->lock, flags);
}

/* Let time go on, with a black picture. Needs no modeset lock. */
void sim_scan_restart(struct sim_scan *scan)
{
	struct sim_display *display = container_of(scan, struct sim_display, scan);
	struct sim_surface surface;
	unsigned long flags;

	spin_lock_irqsave(&scan->lock, flags);
	if (scan->want.on && !scan->hw.on) {
		surface = scan->hw.surface;	/* of a flip that came after the reset */
		scan->hw = scan->want;
		scan->hw.surface = surface;
		sim_fault_regs(display->sdev, &scan->hw);
		scan->start = ktime_get();
		sim_scan_arm(scan);
	}
	spin_unlock_irqrestore(&scan->lock, flags);
}

/* Bring the picture back, at the next vblank. */
void sim_scan_restore(struct sim_scan *scan)
{
	unsigned long flags;

	spin_lock_irqsave(&scan->lock, flags);
	if (scan->hw.on)
		scan->hw.surface = scan->want.surface;
	spin_unlock_irqrestore(&scan->lock, flags);
}

static void sim_vblank_switch(struct drm_crtc *crtc, bool on)
{
	struct sim_scan *scan = &crtc_to_display(crtc)->scan;
	unsigned long flags;

	spin_lock_irqsave(&scan->lock, flags);
	scan->want.irq = on;
	if (scan->hw.on)
		scan->hw.irq = on;
	sim_scan_arm(scan);
	spin_unlock_irqrestore(&scan->lock, flags);
}

int sim_vblank_enable(struct drm_crtc *crtc)
{
	sim_vblank_switch(crtc, true);
	return 0;
}

void sim_vblank_disable(struct drm_crtc *crtc)
{
	sim_vblank_switch(crtc, false);
}

u32 sim_vblank_counter(struct drm_crtc *crtc)
{
	struct sim_scan *scan = &crtc_to_display(crtc)->scan;
	unsigned long flags;
	u32 frames;

	spin_lock_irqsave(&scan->lock, flags);
	frames = scan->frames + sim_scan_elapsed(scan);
	spin_unlock_irqrestore(&scan->lock, flags);
	return frames;
}

bool sim_vblank_timestamp(struct drm_crtc *crtc, int *max_error, ktime_t *time, bool in_irq)
{
	struct sim_scan *scan = &crtc_to_display(crtc)->scan;
	unsigned long flags;
	bool on;

	spin_lock_irqsave(&scan->lock, flags);
	on = scan->hw.on;
	if (on)
		*time = sim_scan_time(scan, sim_scan_elapsed(scan));
	spin_unlock_irqrestore(&scan->lock, flags);
	*max_error = 0;
	return on;
}

void sim_scan_init(struct sim_scan *scan)
{
	spin_lock_init(&scan->lock);
	hrtimer_init(&scan->timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS);
	scan->timer.function = sim_scan_vblank;
}
