"""Small charts as SVG, drawn here so that they need no script.

Law: numbers in, markup out. Each says in words what it shows. Non-goal: interaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ext_authz.server.page.html import Markup, tag

WIDTH: Final = 600
HEIGHT: Final = 120
_TOP: Final = 10
_BOTTOM: Final = 18


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its name, its class in the style sheet, its values (None: nothing there)."""

    name: str
    style: str
    values: Sequence[float | None]


def chart(title: str, lines: Sequence[Line], *, unit: str, span: str) -> Markup:
    """Draw lines over the same moments, oldest first. `span` says how long that is."""
    top = _round_up(max((each for line in lines for each in line.values if each is not None), default=0.0))
    newest = ", ".join(f"{line.name} {_last(line.values, unit)}" for line in lines)
    drawn = [
        tag("polyline", points=points, class_=f"line {line.style}")
        for line in lines
        for points in _segments(line.values, top)
    ]
    middle = _TOP + (HEIGHT - _TOP - _BOTTOM) / 2
    grid = [
        tag("line", x1=0, x2=WIDTH, y1=f"{y:g}", y2=f"{y:g}", class_="grid") for y in (_TOP, middle, HEIGHT - _BOTTOM)
    ]
    labels = [
        tag("text", f"{amount(top)}{unit}", x=2, y=_TOP - 1, class_="axis"),
        tag("text", span, x=2, y=HEIGHT - 4, class_="axis"),
        tag("text", "now", x=WIDTH - 2, y=HEIGHT - 4, class_="axis end"),
    ]
    image = tag(
        "svg",
        tag("title", f"{title}: {newest}"),
        grid,
        drawn,
        labels,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        preserveAspectRatio="none",
    )
    legend = [
        tag("span", tag("span", class_=f"key {line.style}"), f"{line.name} ", tag("b", _last(line.values, unit)))
        for line in lines
    ]
    return tag("figure", tag("figcaption", tag("strong", title), legend), image)


def amount(value: float) -> str:
    """Return a number with three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004


def _last(values: Sequence[float | None], unit: str) -> str:
    value = values[-1] if values else None
    return "-" if value is None else f"{amount(value)}{unit}"


def _segments(values: Sequence[float | None], top: float) -> list[str]:
    found: list[list[str]] = [[]]
    step = WIDTH / max(1, len(values) - 1)
    for index, value in enumerate(values):
        if value is None:
            found.append([])
            continue
        y = HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * value / top
        found[-1].append(f"{index * step:.1f},{y:.1f}")
    return [" ".join(points) for points in found if len(points) > 1]


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 5, 10, … at or above a value; 1 where nothing happened."""
    if value <= 0:
        return 1.0
    scale = 1e-6
    while scale * 10 < value:
        scale *= 10
    return next(scale * each for each in (1, 2, 5, 10) if scale * each >= value or each == 10)  # noqa: PLR2004
