"""A hardware-in-the-loop test harness for Linux GPU drivers."""
