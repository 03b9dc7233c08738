"""What `model_extraction` remembers: of each subject and model, and of each model.

Law: plain values and sketches, of one size whatever was sent. Non-goal: judging (extraction.py).
"""

from typing import Any, Final

from ext_authz.monitor.detectors.baseline import Baseline, Peers, texts, whole
from ext_authz.monitor.detectors.finding import MAX_EVIDENCE
from ext_authz.monitor.detectors.others import Union
from ext_authz.monitor.detectors.seen import HOUR
from ext_authz.monitor.detectors.sketch import Distinct

MOMENT: Final = 600
MOMENTS: Final = HOUR // MOMENT
BATCH: Final = 64


class Use:
    """Of one subject and model: the ten minutes, the hour and the day that run, and what was usual."""

    __slots__ = (
        "alarmed",
        "day",
        "day_inputs",
        "days",
        "evidence",
        "gap",
        "hour",
        "hour_inputs",
        "hours",
        "last_ns",
        "moment",
        "moment_inputs",
        "moments",
        "n",
        "square",
    )

    def __init__(self, moment: int) -> None:
        self.moment = moment
        self.hour = moment // MOMENTS
        self.day = self.hour // 24
        self.alarmed = -1
        self.n = 0
        self.last_ns = 0
        self.gap = 0.0
        self.square = 0.0
        self.moment_inputs = self.hour_inputs = self.day_inputs = Distinct()
        """One and the same for as long as the moment began with the hour, the hour with the day."""
        self.moments = Baseline(self.day)
        self.hours = Baseline(self.day)
        self.days = Baseline(self.day)
        self.evidence: list[str] = []

    def steady(self) -> bool:
        """Whether the gaps between the hour's queries hardly vary, as a loop's do."""
        if self.n < BATCH or self.gap <= 0:
            return False
        mean = self.gap / self.n
        return self.square / self.n - mean * mean < (0.5 * mean) ** 2

    def pack(self) -> list[Any]:
        """Return it as plain data."""
        inputs = [self.moment_inputs.pack(), self.hour_inputs.pack(), self.day_inputs.pack()]
        rest = [inputs, self.moments.pack(), self.hours.pack(), self.days.pack(), self.evidence]
        return [self.moment, self.alarmed + 1, self.n, self.last_ns, self.gap, self.square, *rest]

    @classmethod
    def unpack(cls, packed: Any) -> "Use":  # noqa: ANN401  plain data from outside
        """Return what `pack` wrote; raises ValueError or TypeError."""
        moment, alarmed, n, last_ns, gap, square, inputs, moments, hours, days, evidence = packed
        made = cls(whole(moment))
        made.alarmed, made.n, made.last_ns = whole(alarmed) - 1, whole(n), int(last_ns)
        made.gap, made.square = float(gap), float(square)
        made.moment_inputs, made.hour_inputs, made.day_inputs = map(Distinct.unpack, inputs)
        made.moments, made.hours, made.days = map(Baseline.unpack, (moments, hours, days))
        made.evidence = texts(evidence, MAX_EVIDENCE)
        return made


class Model:
    """Of one model: what all its users' days are like, and what they send today beyond what is usual for each."""

    __slots__ = ("alarmed", "baseline", "beyond", "evidence", "first", "peers", "subjects", "union")

    def __init__(self, day: int) -> None:
        self.alarmed = -1
        self.first = day
        self.beyond = Distinct()
        self.subjects = Distinct()
        self.peers = Peers()
        self.baseline = Baseline(day)
        self.evidence: list[str] = []
        self.union: Union | None = None

    def pack(self) -> list[Any]:
        """Return it as plain data."""
        rest = [self.peers.pack(), self.baseline.pack(), self.evidence]
        together = [] if self.union is None else [self.union.baseline.pack()]
        return [self.alarmed + 1, self.first, self.beyond.pack(), self.subjects.pack(), *rest, *together]

    @classmethod
    def unpack(cls, packed: Any) -> "Model":  # noqa: ANN401  plain data from outside
        """Return what `pack` wrote; raises ValueError or TypeError."""
        alarmed, first, beyond, subjects, peers, baseline, evidence, *together = packed
        made = cls(whole(first))
        made.alarmed, made.beyond = whole(alarmed) - 1, Distinct.unpack(beyond)
        made.subjects, made.peers = Distinct.unpack(subjects), Peers.unpack(peers)
        made.baseline, made.evidence = Baseline.unpack(baseline), texts(evidence, MAX_EVIDENCE)
        if together:
            made.union = Union(Baseline.unpack(together[0]))
        return made
