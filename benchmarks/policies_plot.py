"""Draws what a decision costs over the number of policies: SVG, both axes logarithmic, on a light or a dark page."""

from itertools import pairwise
from math import ceil, floor, log10
from pathlib import Path

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 84, 200, 44, 60
# Each has a contrast of more than 3 on white and on #0d1117.
INK, FAINT = "#7d8590", "#7d859055"
COLOURS = ("#1f9d6b", "#d9622b", "#5b7fe8", "#b46ad6")
FONT = 'font-family="system-ui, sans-serif" font-size="13"'
MARKS = ("circle", "square", "diamond", "triangle")


def _time(microseconds: float) -> str:
    if microseconds < 1_000:
        return f"{microseconds:g} µs"
    return f"{microseconds / 1_000:g} ms"


def _mark(kind: str, x: float, y: float, colour: str) -> str:
    shapes = {
        "square": f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8z",
        "diamond": f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z",
        "triangle": f"M{x:.1f} {y - 5:.1f}l5 9h-10z",
    }
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    return f'<path d="{shapes[kind]}" fill="{colour}"/>'


def _apart(places: list[float], least: float) -> list[float]:
    """Move labels so that none lies upon another; order is kept."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + least)
    return moved


def draw(series: dict[str, dict[int, float]], file: Path) -> None:
    """Write the picture of microseconds a decision by number of policies for each name."""
    values = [each for points in series.values() for each in points.values()]
    low, high = 10 ** floor(log10(min(values))), 10 ** ceil(log10(max(values)))
    sizes = sorted({size for points in series.values() for size in points})

    def x(size: float) -> float:
        return LEFT + log10(size / sizes[0]) / log10(sizes[-1] / sizes[0]) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - log10(value / low) / log10(high / low) * (HEIGHT - BOTTOM - TOP)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" fill="{INK}" role="img" {FONT}>',
        "<title>CPU time of one decision over the number of policies</title>",
        f'<text x="{LEFT}" y="24" font-size="15">CPU time of one decision (both axes logarithmic)</text>',
    ]
    step = low
    while step <= high * 1.01:
        lines.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(step):.1f}" y2="{y(step):.1f}" stroke="{FAINT}"/>')
        lines.append(f'<text x="{LEFT - 10}" y="{y(step) + 4.5:.1f}" text-anchor="end">{_time(step)}</text>')
        step *= 10
    for size in sizes:
        lines.append(
            f'<line x1="{x(size):.1f}" x2="{x(size):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="{FAINT}"/>'
        )
        lines.append(f'<text x="{x(size):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{size:,}</text>')
    lines.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 14}" text-anchor="middle">policies</text>')
    ends = _apart([y(points[max(points)]) for points in series.values()], 32)
    for (name, points), colour, mark, end in zip(series.items(), COLOURS, MARKS, ends, strict=False):
        path = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in sorted(points.items()))
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines += [_mark(mark, x(size), y(value), colour) for size, value in points.items()]
        last = points[max(points)]
        cost = _time(float(f"{last:.2g}"))
        lines.append(f'<text x="{WIDTH - RIGHT + 14}" y="{end:.1f}" fill="{colour}" font-weight="600">{name}</text>')
        lines.append(f'<text x="{WIDTH - RIGHT + 14}" y="{end + 15:.1f}" fill="{colour}">{cost}</text>')
    file.write_text("\n".join([*lines, "</svg>"]) + "\n", encoding="utf-8")
