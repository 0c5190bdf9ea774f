"""A lab of several hosts: places of a labgrid coordinator as reservations of targets.

The one room that knows labgrid; imported only where targets.toml names a coordinator.
"""
