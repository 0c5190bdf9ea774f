"""A gen3 Intel GPU as a process, for the real i915 driver to probe, hang and reset."""
