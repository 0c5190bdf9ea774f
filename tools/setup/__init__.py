"""What a machine needs before the virtual targets can run, made step by step.

`python -m tools.setup` in the venv; tools/lab makes the venv and calls it.  Every
step is cached by content, safe to kill at any point, and safe to run twice at once.
"""

__all__: list[str] = []
