"""What patterns of a listing say of one id, read as docs/mapping.md tells a filter to."""

from urllib.parse import unquote


def shows(patterns, name):
    """Whether the longest pattern that fits `name` shows it; an exact one is longer than any prefix."""
    best, shown = -1, False
    for pattern in patterns:
        hidden = pattern.startswith("!")
        body = pattern[1:] if hidden else pattern
        text = unquote(body.removesuffix("*"), errors="strict")
        if body.endswith("*"):
            length = len(text) if name.startswith(text) else -1
        else:
            length = len(name) + 1 if name == text else -1
        if length > best:
            best, shown = length, not hidden
    return shown
