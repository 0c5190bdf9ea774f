"""What a lab needs beyond one test: who holds a target, and reports of what was run."""
