"""Text that changes with every session and means nothing to a model.

Claude Code, for one, begins its system blocks with ``x-anthropic-billing-header: cc_version=...``,
another one in each session. A prompt that began with it would share no block of KV with any other.
"""

from collections.abc import Sequence


def without(text: str, beginnings: Sequence[str]) -> str:
    """Return a system text without its first line if that begins with one of ``beginnings``."""
    bare = text.lstrip()
    if not bare.startswith(tuple(beginnings)):
        return text
    return bare.partition("\n")[2]
