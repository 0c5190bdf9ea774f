// SPDX-License-Identifier: GPL-2.0
/* Faults of the display: what a reset that took it with it does not bring back. */
#include <linux/list.h>

#include <drm/drm_file.h>
#include <drm/drm_vblank.h>

#include "sim_display.h"

/* The registers as they are written again after a reset; under scan.lock. */
void sim_fault_regs(struct sim_device *sdev, struct sim_regs *regs)
{
	regs->on = !sim_fault(sdev, SIM_FAULT_MODE_LOST);
	regs->masked = sim_fault(sdev, SIM_FAULT_VBLANK_DEAD);
	regs->invert = sim_fault(sdev, SIM_FAULT_FRAME_CORRUPT) & 0xffffff;
}

/* Resets that were before the switch lose nothing. */
void sim_fault_prepare_flip(struct sim_device *sdev)
{
	spin_lock_irq(&sdev->drm.event_lock);
	sdev->faults.flips_lost = atomic_read(&sdev->reset_counter);
	spin_unlock_irq(&sdev->drm.event_lock);
}

/*
 * A flip's event on its way, under event_lock. Lost, it still completes its commit,
 * as it does for a file that was closed meanwhile (drm_events_release).
 */
void sim_fault_flip(struct sim_device *sdev, struct drm_pending_vblank_event *event)
{
	int resets = atomic_read(&sdev->reset_counter);

	lockdep_assert_held(&sdev->drm.event_lock);
	if (!sim_fault(sdev, SIM_FAULT_FLIP_LOST) || sdev->faults.flips_lost == resets ||
	    !event->base.file_priv)
		return;
	sdev->faults.flips_lost = resets;
	event->base.file_priv->event_space += event->base.event->length;
	list_del(&event->base.pending_link);
	event->base.file_priv = NULL;
}
