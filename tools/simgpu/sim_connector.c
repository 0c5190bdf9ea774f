// SPDX-License-Identifier: GPL-2.0
/* A monitor that is always there: 1024x768 and 640x480 at 60 Hz. */
#include <drm/drm_atomic_helper.h>
#include <drm/drm_atomic_state_helper.h>
#include <drm/drm_edid.h>
#include <drm/drm_managed.h>
#include <drm/drm_probe_helper.h>

#include "sim_display.h"

/* EDID 1.4. */
static const u8 sim_edid[EDID_LENGTH] = {
	0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00,
	/* "TDR", product 1, serial 0, week 1 of 2026, version 1.4 */
	0x50, 0x92, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x24, 0x01, 0x04,
	/* digital, 26x20 cm, gamma 2.2, RGB, first timing is the preferred one */
	0x80, 0x1a, 0x14, 0x78, 0x02,
	/* sRGB */
	0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54,
	/* established timings 640x480@60 and 1024x768@60, no standard ones */
	0x20, 0x08, 0x00,
	0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01,
	0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01,
	/* 65 MHz: 1024 24 136 160, 768 3 6 29 */
	0x64, 0x19, 0x00, 0x40, 0x41, 0x00, 0x26, 0x30, 0x18,
	0x88, 0x36, 0x00, 0x04, 0xc3, 0x10, 0x00, 0x00, 0x18,
	/* its name */
	0x00, 0x00, 0x00, 0xfc, 0x00, 's', 'i', 'm', 'g', 'p', 'u', '\n',
	' ', ' ', ' ', ' ', ' ', ' ',
	/* unused */
	0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	/* its serial number */
	0x00, 0x00, 0x00, 0xff, 0x00, '1', '\n', ' ', ' ', ' ', ' ', ' ',
	' ', ' ', ' ', ' ', ' ', ' ',
	/* no extension; checksum */
	0x00, 0x47,
};

static int sim_connector_get_modes(struct drm_connector *connector)
{
	const struct drm_edid *edid = drm_edid_alloc(sim_edid, sizeof(sim_edid));
	int count = 0;

	if (!drm_edid_connector_update(connector, edid))
		count = drm_edid_connector_add_modes(connector);
	drm_edid_free(edid);
	return count;
}

static const struct drm_connector_helper_funcs sim_connector_helper_funcs = {
	.get_modes = sim_connector_get_modes,
};

static const struct drm_connector_funcs sim_connector_funcs = {
	.fill_modes = drm_helper_probe_single_connector_modes,
	.reset = drm_atomic_helper_connector_reset,
	.atomic_duplicate_state = drm_atomic_helper_connector_duplicate_state,
	.atomic_destroy_state = drm_atomic_helper_connector_destroy_state,
};

int sim_connector_create(struct sim_display *display)
{
	struct drm_device *drm = &display->sdev->drm;
	int ret;

	ret = drmm_connector_init(drm, &display->connector, &sim_connector_funcs,
				  DRM_MODE_CONNECTOR_VIRTUAL, NULL);
	if (ret)
		return ret;
	drm_connector_helper_add(&display->connector, &sim_connector_helper_funcs);
	drm_connector_attach_edid_property(&display->connector);

	ret = drmm_encoder_init(drm, &display->encoder, NULL, DRM_MODE_ENCODER_VIRTUAL, NULL);
	if (ret)
		return ret;
	display->encoder.possible_crtcs = drm_crtc_mask(&display->crtc);
	return drm_connector_attach_encoder(&display->connector, &display->encoder);
}
