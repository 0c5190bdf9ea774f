"""The modelled gen3 chip, driven by register accesses alone."""
