"""Elements from text: the one place where text becomes markup.

Law: whatever is not `Markup` is escaped, in attributes too. Non-goal: knowing what is shown.
"""

from collections.abc import Iterable
from html import escape
from typing import Final

_VOID: Final = frozenset({"br", "input", "link", "meta"})
"""Elements without an end (HTML 13.1.2); SVG has none such."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = Markup | str | int | float | None | Iterable["Child"]


def join(children: Child) -> Markup:
    """Return children one after the other, what is text escaped; None is nothing."""
    if children is None:
        return Markup("")
    if isinstance(children, Markup):
        return children
    if isinstance(children, str):
        return Markup(escape(_shown(children)))
    if isinstance(children, (int, float)):
        return Markup(escape(str(children)))
    return Markup("".join(map(join, children)))


def tag(element: str, /, *children: Child, **attributes: str | int | bool | None) -> Markup:
    """Return an element. In attributes' names `_` stands for `-`, and one behind for nothing (`class_`).

    None and False leave an attribute out, True gives it no value.
    """
    parts = [f"<{element}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        written = key.rstrip("_").replace("_", "-")
        parts.append(f" {written}" if value is True else f' {written}="{escape(_shown(str(value)))}"')
    parts.append(">")
    if element not in _VOID:
        parts += [join(children), f"</{element}>"]
    return Markup("".join(parts))


def _shown(text: str) -> str:
    """Make visible what would be invisible or turn the direction of what follows (CVE-2021-42574)."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each == "\n" else _named(each) for each in text)


def _named(character: str) -> str:
    return f"\\u{{{ord(character):x}}}"
