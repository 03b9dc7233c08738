"""Counting alarms: per subject, with 95 % intervals from a bootstrap over subjects (fixed seed)."""

import math
import random
from collections import defaultdict
from dataclasses import dataclass, field

from ext_authz.monitor.detectors.seen import HOUR, Seen

RESAMPLES = 1000
PREVALENCE = 1.0
"""Attacks per 1,000 subject-days for the column of precision, which means nothing without a rate of attacks."""


def one(second, subject, model="m", made="x", weight=1, *, ip="10.0.0.1", reason="allowed", claimed=""):
    """Return an event as detectors see it."""
    allowed = reason == "allowed"
    return Seen(
        f"w:{int(second)}", int(second * 1e9), int(second), allowed, reason, subject, claimed, ip, "model", model,
        "infer", weight, made, {"subject": {"id": subject, "name": subject[4:]}}, f"model/{model}", subject[4:],
    )  # fmt: skip


def sleeping(times):
    """Return the hour of the day opposite the circular mean of the times."""
    x = sum(math.cos(second % 86_400 / 86_400 * 2 * math.pi) for second in times)
    y = sum(math.sin(second % 86_400 / 86_400 * 2 * math.pi) for second in times)
    return (math.atan2(y, x) / (2 * math.pi) * 24 + 12) % 24


def has_rhythm(times):
    """Whether under 2 % of the work fell in the six hours about the hour opposite its mean."""
    quiet = sleeping(times)
    return sum(abs((second % 86_400 / HOUR - quiet + 12) % 24 - 12) <= 3 for second in times) < 0.02 * len(times)


@dataclass
class Unit:
    """What happened to one subject (or all copies of it)."""

    name: str
    days: int = 0
    false: int = 0
    attacks: dict = field(default_factory=lambda: defaultdict(list))
    pending: int = 0

    def day(self, alarms):
        self.days += 1
        self.false += alarms

    def attacked(self, kind, delay):
        self.attacks[kind].append(delay)


class Result:
    """The units of one run, summed up."""

    def __init__(self, name, setting, units, target=None):
        self.name, self.setting, self.units, self.target = name, setting, units, target
        by_name = defaultdict(list)
        for unit in units:
            by_name[unit.name].append(unit)
        self.groups = list(by_name.values())

    @property
    def false_per_thousand(self):
        return self._false(self.groups)

    @staticmethod
    def _false(groups):
        days = sum(unit.days for group in groups for unit in group)
        return 1000 * sum(unit.false for group in groups for unit in group) / days if days else 0.0

    @staticmethod
    def _recall(groups, kind):
        delays = [delay for group in groups for unit in group for delay in unit.attacks[kind]]
        return sum(delay is not None for delay in delays) / len(delays) if delays else math.nan

    def interval(self, measure):
        """Return the value and its 95 % interval, subjects drawn with replacement."""
        chance = random.Random(7)
        drawn = sorted(
            value
            for _ in range(RESAMPLES if len(self.groups) > 1 else 1)
            for value in [measure(chance.choices(self.groups, k=len(self.groups)))]
            if not math.isnan(value)
        )
        if not drawn:
            return math.nan, math.nan, math.nan
        return measure(self.groups), drawn[int(0.025 * len(drawn))], drawn[min(int(0.975 * len(drawn)), len(drawn) - 1)]

    def kinds(self):
        return list(dict.fromkeys(kind for unit in self.units for kind in unit.attacks))

    def line(self):
        recalls = ", ".join(f"{kind} {self._recall(self.groups, kind):.3f}" for kind in self.kinds())
        return f"{self.false_per_thousand:.2f} false per 1,000; recall {recalls}"

    @staticmethod
    def table(results):
        kinds = list(dict.fromkeys(kind for result in results for kind in result.kinds()))
        head = [
            "thresholds",
            "subject-days",
            "false alerts per 1,000 subject-days",
            *[f"recall: {kind}" for kind in kinds],
            "half detected after",
        ]
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        lines += ["| " + " | ".join(result.cells(kinds)) + " |" for result in results]
        return lines

    def cells(self, kinds):
        title = self.name if self.target is None else f"≤ {self.target} per 1,000: {self.name} {self.setting}"
        if not self.units:
            return [f"≤ {self.target} per 1,000: no setting tried", *["" for _ in range(3 + len(kinds))]]
        days = sum(unit.days for unit in self.units)
        cells = [title, f"{days:,}", "{:.2f} ({:.2f} to {:.2f})".format(*self.interval(self._false))]
        delays = []
        for kind in kinds:
            value, low, high = self.interval(lambda groups, kind=kind: self._recall(groups, kind))
            if math.isnan(value):
                cells.append("-")
                continue
            precision = value * PREVALENCE / (value * PREVALENCE + self.false_per_thousand) if value else 0.0
            cells.append(f"{value:.3f} ({low:.3f} to {high:.3f}), precision {precision:.2f}")
            found = sorted(d for unit in self.units for d in unit.attacks[kind] if d is not None)
            delays.append(
                f"{kind} {found[len(found) // 2]:,.0f} (95 %: {found[int(0.95 * (len(found) - 1))]:,.0f})"
                if found
                else f"{kind} -"
            )
        return [*cells, "; ".join(delays)]


__all__ = ["Result", "Unit", "has_rhythm", "one", "sleeping"]
