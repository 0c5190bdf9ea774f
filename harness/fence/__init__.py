"""Fences: ring-buffer pages → events → ledger → timeline.  Pure: opens no link and no socket."""
