"""Text of others for a terminal: a log may hold what moves the cursor, or retitles the window.

Whatever a target said passes here on its way to a person, once.
"""

__all__ = ["visible"]

# C0 and C1 (ECMA-48), which would move the cursor, colour or retitle the terminal.
_CONTROLS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in b"\t\n"
}


def visible(text: str) -> str:
    """`text` with its control characters spelt out, as /dev/kmsg does."""
    return text.translate(_CONTROLS)
