"""The search, the oracle, putting a kernel on a target."""
