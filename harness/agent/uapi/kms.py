"""The modesetting ABI: outputs, modes, framebuffers, flips, vblanks and their events.

Source: include/uapi/drm/drm_mode.h and include/uapi/drm/drm.h of Linux 6.12.
"""

from __future__ import annotations

import ctypes as c

from .ioc import io, iowr

__all__ = [
    "DrmCrtcGetSequence",
    "DrmCrtcQueueSequence",
    "DrmEvent",
    "DrmEventVblank",
    "DrmModeCardRes",
    "DrmModeConnectorSetProperty",
    "DrmModeCreateDumb",
    "DrmModeCrtc",
    "DrmModeCrtcPageFlip",
    "DrmModeFbCmd2",
    "DrmModeGetConnector",
    "DrmModeGetEncoder",
    "DrmModeGetProperty",
    "DrmModeMapDumb",
    "DrmModeModeinfo",
]

HEADER = "drm/drm.h"  # which includes drm_mode.h

CONNECTED = 1  # DRM_MODE_CONNECTED
DPMS_ON, DPMS_OFF = 0, 3  # DRM_MODE_DPMS_*
FORMAT_XRGB8888 = 0x34325258  # fourcc_code('X', 'R', '2', '4'), drm_fourcc.h
PAGE_FLIP_EVENT = 0x01
SEQUENCE_RELATIVE = 0x1


class DrmModeModeinfo(c.Structure):
    """A timing; `clock` in kHz."""

    c_name = "struct drm_mode_modeinfo"
    _fields_ = [
        ("clock", c.c_uint32),
        ("hdisplay", c.c_uint16),
        ("hsync_start", c.c_uint16),
        ("hsync_end", c.c_uint16),
        ("htotal", c.c_uint16),
        ("hskew", c.c_uint16),
        ("vdisplay", c.c_uint16),
        ("vsync_start", c.c_uint16),
        ("vsync_end", c.c_uint16),
        ("vtotal", c.c_uint16),
        ("vscan", c.c_uint16),
        ("vrefresh", c.c_uint32),
        ("flags", c.c_uint32),
        ("type", c.c_uint32),
        ("name", c.c_char * 32),
    ]


class DrmModeCardRes(c.Structure):
    """The numbers of all CRTCs, connectors, encoders and this client's framebuffers."""

    c_name = "struct drm_mode_card_res"
    _fields_ = [
        ("fb_id_ptr", c.c_uint64),
        ("crtc_id_ptr", c.c_uint64),
        ("connector_id_ptr", c.c_uint64),
        ("encoder_id_ptr", c.c_uint64),
        ("count_fbs", c.c_uint32),
        ("count_crtcs", c.c_uint32),
        ("count_connectors", c.c_uint32),
        ("count_encoders", c.c_uint32),
        ("min_width", c.c_uint32),
        ("max_width", c.c_uint32),
        ("min_height", c.c_uint32),
        ("max_height", c.c_uint32),
    ]


class DrmModeGetConnector(c.Structure):
    """A connector: what is plugged in, and which modes and encoders it has."""

    c_name = "struct drm_mode_get_connector"
    _fields_ = [
        ("encoders_ptr", c.c_uint64),
        ("modes_ptr", c.c_uint64),
        ("props_ptr", c.c_uint64),
        ("prop_values_ptr", c.c_uint64),
        ("count_modes", c.c_uint32),
        ("count_props", c.c_uint32),
        ("count_encoders", c.c_uint32),
        ("encoder_id", c.c_uint32),
        ("connector_id", c.c_uint32),
        ("connector_type", c.c_uint32),
        ("connector_type_id", c.c_uint32),
        ("connection", c.c_uint32),
        ("mm_width", c.c_uint32),
        ("mm_height", c.c_uint32),
        ("subpixel", c.c_uint32),
        ("pad", c.c_uint32),
    ]


class DrmModeGetEncoder(c.Structure):
    """An encoder; bit n of `possible_crtcs` is the nth CRTC of the resources."""

    c_name = "struct drm_mode_get_encoder"
    _fields_ = [
        ("encoder_id", c.c_uint32),
        ("encoder_type", c.c_uint32),
        ("crtc_id", c.c_uint32),
        ("possible_crtcs", c.c_uint32),
        ("possible_clones", c.c_uint32),
    ]


class DrmModeCrtc(c.Structure):
    """A CRTC and what it shows; without connectors, mode and framebuffer it is off."""

    c_name = "struct drm_mode_crtc"
    _fields_ = [
        ("set_connectors_ptr", c.c_uint64),
        ("count_connectors", c.c_uint32),
        ("crtc_id", c.c_uint32),
        ("fb_id", c.c_uint32),
        ("x", c.c_uint32),
        ("y", c.c_uint32),
        ("gamma_size", c.c_uint32),
        ("mode_valid", c.c_uint32),
        ("mode", DrmModeModeinfo),
    ]


class DrmModeGetProperty(c.Structure):
    """What a property of an object is: its name."""

    c_name = "struct drm_mode_get_property"
    _fields_ = [
        ("values_ptr", c.c_uint64),
        ("enum_blob_ptr", c.c_uint64),
        ("prop_id", c.c_uint32),
        ("flags", c.c_uint32),
        ("name", c.c_char * 32),
        ("count_values", c.c_uint32),
        ("count_enum_blobs", c.c_uint32),
    ]


class DrmModeConnectorSetProperty(c.Structure):
    """Another value for a connector's property."""

    c_name = "struct drm_mode_connector_set_property"
    _fields_ = [("value", c.c_uint64), ("prop_id", c.c_uint32), ("connector_id", c.c_uint32)]


class DrmModeCreateDumb(c.Structure):
    """A buffer that the CPU draws into; `pitch` and `size` in bytes."""

    c_name = "struct drm_mode_create_dumb"
    _fields_ = [
        ("height", c.c_uint32),
        ("width", c.c_uint32),
        ("bpp", c.c_uint32),
        ("flags", c.c_uint32),
        ("handle", c.c_uint32),
        ("pitch", c.c_uint32),
        ("size", c.c_uint64),
    ]


class DrmModeMapDumb(c.Structure):
    """The offset at which the node's mmap finds it."""

    c_name = "struct drm_mode_map_dumb"
    _fields_ = [("handle", c.c_uint32), ("pad", c.c_uint32), ("offset", c.c_uint64)]


class DrmModeFbCmd2(c.Structure):
    """Buffers as a framebuffer of one format."""

    c_name = "struct drm_mode_fb_cmd2"
    _fields_ = [
        ("fb_id", c.c_uint32),
        ("width", c.c_uint32),
        ("height", c.c_uint32),
        ("pixel_format", c.c_uint32),
        ("flags", c.c_uint32),
        ("handles", c.c_uint32 * 4),
        ("pitches", c.c_uint32 * 4),
        ("offsets", c.c_uint32 * 4),
        ("modifier", c.c_uint64 * 4),
    ]


class DrmModeCrtcPageFlip(c.Structure):
    """Show another framebuffer from the next vblank on; `user_data` comes back in the event."""

    c_name = "struct drm_mode_crtc_page_flip"
    _fields_ = [
        ("crtc_id", c.c_uint32),
        ("fb_id", c.c_uint32),
        ("flags", c.c_uint32),
        ("reserved", c.c_uint32),
        ("user_data", c.c_uint64),
    ]


class DrmCrtcGetSequence(c.Structure):
    """A CRTC's vblank counter, and the time of the last vblank in ns."""

    c_name = "struct drm_crtc_get_sequence"
    _fields_ = [
        ("crtc_id", c.c_uint32),
        ("active", c.c_uint32),
        ("sequence", c.c_uint64),
        ("sequence_ns", c.c_int64),
    ]


class DrmCrtcQueueSequence(c.Structure):
    """Ask for an event at a vblank."""

    c_name = "struct drm_crtc_queue_sequence"
    _fields_ = [
        ("crtc_id", c.c_uint32),
        ("flags", c.c_uint32),
        ("sequence", c.c_uint64),
        ("user_data", c.c_uint64),
    ]


class DrmEvent(c.Structure):
    """What every event begins with; `length` counts all of it, in bytes."""

    c_name = "struct drm_event"
    _fields_ = [("type", c.c_uint32), ("length", c.c_uint32)]


class DrmEventVblank(c.Structure):
    """A flip completed.  Events of QUEUE_SEQUENCE have `user_data` at the same place."""

    c_name = "struct drm_event_vblank"
    _fields_ = [
        ("base", DrmEvent),
        ("user_data", c.c_uint64),
        ("tv_sec", c.c_uint32),
        ("tv_usec", c.c_uint32),
        ("sequence", c.c_uint32),
        ("crtc_id", c.c_uint32),
    ]


SET_MASTER = io("DRM_IOCTL_SET_MASTER", "d", 0x1E)
CRTC_GET_SEQUENCE = iowr("DRM_IOCTL_CRTC_GET_SEQUENCE", "d", 0x3B, DrmCrtcGetSequence)
CRTC_QUEUE_SEQUENCE = iowr("DRM_IOCTL_CRTC_QUEUE_SEQUENCE", "d", 0x3C, DrmCrtcQueueSequence)
GETRESOURCES = iowr("DRM_IOCTL_MODE_GETRESOURCES", "d", 0xA0, DrmModeCardRes)
GETCRTC = iowr("DRM_IOCTL_MODE_GETCRTC", "d", 0xA1, DrmModeCrtc)
SETCRTC = iowr("DRM_IOCTL_MODE_SETCRTC", "d", 0xA2, DrmModeCrtc)
GETENCODER = iowr("DRM_IOCTL_MODE_GETENCODER", "d", 0xA6, DrmModeGetEncoder)
GETCONNECTOR = iowr("DRM_IOCTL_MODE_GETCONNECTOR", "d", 0xA7, DrmModeGetConnector)
GETPROPERTY = iowr("DRM_IOCTL_MODE_GETPROPERTY", "d", 0xAA, DrmModeGetProperty)
SETPROPERTY = iowr("DRM_IOCTL_MODE_SETPROPERTY", "d", 0xAB, DrmModeConnectorSetProperty)
PAGE_FLIP = iowr("DRM_IOCTL_MODE_PAGE_FLIP", "d", 0xB0, DrmModeCrtcPageFlip)
CREATE_DUMB = iowr("DRM_IOCTL_MODE_CREATE_DUMB", "d", 0xB2, DrmModeCreateDumb)
MAP_DUMB = iowr("DRM_IOCTL_MODE_MAP_DUMB", "d", 0xB3, DrmModeMapDumb)
ADDFB2 = iowr("DRM_IOCTL_MODE_ADDFB2", "d", 0xB8, DrmModeFbCmd2)
