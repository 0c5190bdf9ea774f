"""Kernel text -> records -> splats and GPU events.  Pure: opens no link and no socket."""
