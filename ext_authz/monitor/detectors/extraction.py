"""Querying a model to copy it: many distinct inputs, by one subject or by many a little each.

Law: distinct inputs count, not requests; judged against the subject's own past and its peers on that model, and the
model's traffic beyond what its users usually make. Non-goal: seeing answers. The check sees requests only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ext_authz.monitor.detectors.baseline import Baseline, Limits, state_of, whole
from ext_authz.monitor.detectors.finding import Finding, Severity, SnapshotError
from ext_authz.monitor.detectors.fold import ALLOWED, NONE, Fold, Found, kept
from ext_authz.monitor.detectors.others import MAX_PARTS, Groups, Part, Union, part
from ext_authz.monitor.detectors.seen import DAY, SECOND_NS, Seen
from ext_authz.monitor.detectors.sketch import Distinct, digest, registers_of_many, several
from ext_authz.monitor.detectors.table import Quota, Table
from ext_authz.monitor.detectors.uses import BATCH, MOMENT, MOMENTS, Model, Use

QUERIES: Final = frozenset({"infer", "generate", "embed", "explain", "rerank", "classify"})
_EACH: Final = 16


@dataclass(frozen=True, slots=True)
class ExtractionParams:
    """Parameters of `model_extraction` (docs/monitoring.md)."""

    moment: Limits = field(default_factory=lambda: Limits(floor=300, factor=2.0, spread=1.0, most=8.0))
    """Distinct inputs of a subject to a model within ten minutes."""
    hour: Limits = field(default_factory=lambda: Limits(floor=400, factor=2.0, spread=1.0, most=8.0))
    """The same within the hour."""
    day: Limits = field(default_factory=lambda: Limits(floor=1000, factor=2.0, spread=1.0, most=8.0))
    """The same within the day (UTC)."""
    new_inputs: int = 1000
    """Distinct inputs within a day of a subject without history, or what 90 % of its peers' days stay under …"""
    peer_factor: float = 1.0
    """… times this, whichever is more, …"""
    new_most: int = 1500
    """… up to this, or what half of the days stay under: a few busy peers are no excuse for a stranger."""
    own_days: int = 2
    """Active days after which a subject without history enough is also held to its own most of a day …"""
    own_factor: int = 5
    """… times this, and at least `new_inputs`: who comes once a week is not new for ever."""
    peers_needed: int = 50
    """Days of peers on the model before they count."""
    together: Limits = field(default_factory=lambda: Limits(floor=2000, warm_days=3))
    """Distinct inputs to a model within the day by subjects beyond what is usual for each of them, all together, …"""
    together_subjects: int = 10
    """… by at least this many subjects."""
    together_each: int = 100
    """Of one subject so many count there: who sends more is judged alone, and its growth hides nobody."""
    max_pairs: int = 10_000
    """Pairs of subject and model that are remembered."""
    max_models: int = 1000


class ModelExtraction(Fold):
    """Distinct inputs to a model beyond what a subject, or all together, usually send."""

    name = "model_extraction"
    kinds = frozenset({ALLOWED})

    def __init__(self, params: ExtractionParams | None = None, key: bytes = b"") -> None:
        """`key` keys the hashes; secret, up to 64 bytes."""
        self.params = params or ExtractionParams()
        self._key = key
        self._uses: Table[Use] = Table(self.params.max_pairs)
        self._models: Table[Model] = Table(self.params.max_models)
        self._begun = Quota(max(self.params.max_pairs // 40, 1), self.params.max_pairs)
        """Models that a subject uses for the first time: beyond so many in a day they are one to it, called `*`."""
        self._since = 0
        """The day since which counts are shared: what is usual for all hosts is not known at first."""
        self._groups: Groups = {}
        self._me = ""

    def see(self, one: Seen) -> Found:
        """Take one event in; only queries that a verified subject was allowed count."""
        if not one.subject or not one.allowed or one.action not in QUERIES:
            return NONE
        if f"{one.subject}\n{one.resource}" not in self._uses and not self._begun.may(one.subject, one.second // DAY):
            # Names of models that a policy allows may be the caller's own making.
            one = replace(one, id="*", resource=f"{one.type}/*")
        hashed = digest(one.input, self._key)
        key, about, moment = f"{one.subject}\n{one.resource}", one.resource, one.second // MOMENT
        use, model = self._known(key, about, moment)
        if moment // MOMENTS < use.hour:
            return NONE
        if moment > use.moment:
            self._turn(key, use, model, moment)
        weight = one.weight
        use.n += weight
        if use.n == _EACH:
            self._uses.settle(key)
        if use.last_ns:
            gap = (one.at_ns - use.last_ns) / 1e9
            use.gap, use.square = use.gap + gap, use.square + gap * gap
        use.last_ns = one.at_ns
        inputs = (hashed,) if weight == 1 else several(hashed, min(weight, BATCH))
        for each in inputs if weight <= BATCH else ():
            # What the moment had the hour had too, what the hour had the day.
            if (
                use.moment_inputs.add(each)
                and (use.hour_inputs is use.moment_inputs or use.hour_inputs.add(each))
                and use.day_inputs is not use.hour_inputs
            ):
                use.day_inputs.add(each)
        if weight > BATCH:
            many = registers_of_many(hashed, weight)
            for inputs_of in (use.moment_inputs, use.hour_inputs, use.day_inputs):
                inputs_of.merge_registers(many)
        own: Found = NONE
        if use.n % _EACH == 0 or weight > 1:
            kept(use.evidence, one.event_id)
            own = self._alone(one, use, model)
        if use.days.most < use.n <= use.days.most + self.params.together_each:
            return [*own, *self._together(one, use, model, inputs)] or NONE
        return own

    def _known(self, key: str, about: str, moment: int) -> tuple[Use, Model]:
        model, use = self._models.get(about), self._uses.get(key)
        if model is None:
            model = Model(moment * MOMENT // DAY)
            self._models.put(about, model)
        if use is None:
            use = Use(moment)
            self._uses.put(key, use)
        return use, model

    def _turn(self, key: str, use: Use, model: Model, moment: int) -> None:
        params, hour = self.params, moment // MOMENTS
        day = hour // 24
        use.moments.note(use.day, len(use.moment_inputs), params.moment)
        use.moment, use.moment_inputs = moment, Distinct()
        if hour == use.hour:
            return
        use.hours.note(use.day, len(use.hour_inputs), params.hour)
        use.days.note(use.day, len(use.day_inputs), params.day)
        use.hour, use.hour_inputs = hour, use.moment_inputs
        if day != use.day:
            self._uses.settle(key)
            model.peers.note(use.day, use.days.peak)
            use.moments.note(day, 0, params.moment)
            use.hours.note(day, 0, params.hour)
            use.days.note(day, 0, params.day)
            use.day, use.day_inputs = day, use.hour_inputs
            use.n = 0
        use.gap = use.square = 0.0
        use.last_ns = 0
        use.evidence.clear()

    def _alone(self, one: Seen, use: Use, model: Model) -> Found:
        if use.alarmed == use.day:
            return NONE
        params = self.params
        if use.n < min(params.moment.floor, params.hour.floor, params.new_inputs, params.day.floor):
            return NONE
        at_once, within_hour, within_day = len(use.moment_inputs), len(use.hour_inputs), len(use.day_inputs)
        peers = model.peers if model.peers.count >= params.peers_needed else None
        if use.days.is_warm(params.day):
            # What half of the peers' days reach is no theft of the model.
            if peers is not None and within_day <= peers.quantile(0.5):
                return NONE
            by_moment, by_hour = use.moments.threshold(params.moment), use.hours.threshold(params.hour)
            by_day = use.days.threshold(params.day)
            if at_once <= by_moment and within_hour <= by_hour and within_day <= by_day:
                return NONE
            than = (
                f"its own days had at most {use.days.most}, its hours {use.hours.most}, ten minutes {use.moments.most}"
                f" (limits {round(by_day)}, {round(by_hour)} and {round(by_moment)})"
            )
        else:
            limit = float(params.new_inputs)
            if peers is not None:
                busy = min(params.peer_factor * peers.quantile(0.9), params.new_most)
                limit = max(limit, busy, peers.quantile(0.5))
            if len(use.days.peaks) >= params.own_days:
                limit = min(limit, max(params.new_inputs, params.own_factor * use.days.most))
            if within_day <= limit:
                return NONE
            than = f"it is new to the model, or seldom there (limit {round(limit)})"
        use.alarmed = use.day
        steady = ", in the steady pace of a loop" if use.steady() else ""
        said = (
            f"about {within_day} distinct inputs to `{one.id}` today, {within_hour} within the hour,"
            f" {at_once} within ten minutes{steady}; {than}"
        )
        severity = Severity.HIGH if steady or use.days.is_warm(params.day) else Severity.MEDIUM
        evidence = tuple(use.evidence)
        return (
            Finding(self.name, one.subject, one.ip or None, severity, said, evidence, one.at_ns, None, one.resource),
        )

    def _together(self, one: Seen, use: Use, model: Model, inputs: Sequence[int]) -> Found:
        params = self.params
        if use.day > model.baseline.day:
            model.baseline.note(use.day, 0, params.together)
            self._models.settle(one.resource)
            model.beyond, model.subjects = Distinct(), Distinct()
            model.evidence.clear()
            self._join(one.resource, model)
        elif use.day < model.baseline.day:
            return NONE
        # At first everybody is new to the model; that is no measure of what is usual.
        age = use.day - model.first - params.day.warm_days
        if age < 0:
            return NONE
        union = model.union if model.union is not None and model.union.hosts else None
        for each in inputs:
            model.beyond.add(each)
            if union is not None:
                union.one.add(each)
        beyond = len(model.beyond)
        if use.n % _EACH == 0 or use.n <= one.weight:
            subject = digest(one.subject, self._key)
            model.subjects.add(subject)
            if union is not None:
                union.two.add(subject)
            kept(model.evidence, one.event_id)
        judged = beyond > params.together.floor and age >= params.together.warm_days
        limit = model.baseline.threshold(params.together) if judged else 0.0
        found: Found = NONE
        if limit and beyond > limit and model.alarmed != use.day and len(model.subjects) >= params.together_subjects:
            model.alarmed = use.day
            said = (
                f"about {beyond} distinct inputs to `{one.id}` today by about {len(model.subjects)} subjects, each"
                f" beyond its own usual; the days before had at most {model.baseline.most} (limit {round(limit)})"
            )
            evidence = tuple(model.evidence)
            found = (Finding(self.name, None, None, Severity.HIGH, said, evidence, one.at_ns, None, one.resource),)
        model.baseline.note(use.day, beyond, params.together)
        return found if found or union is None else self._judge_together(one.resource, model, union, one.at_ns)

    def _judge_together(self, about: str, model: Model, union: Union, at_ns: int) -> Found:
        """Judge what all hosts counted of a model within the day, as the count here is judged."""
        params, day = self.params, model.baseline.day
        limit = union.judge(day, at_ns // SECOND_NS, params.together, params.together_subjects)
        age = day - max(model.first + params.day.warm_days, self._since)
        if not limit or age < params.together.warm_days or not model.evidence or model.alarmed == day:
            return NONE
        model.alarmed = day
        said = (
            f"about {len(union.one)} distinct inputs to `{about.partition('/')[2]}` today by about {len(union.two)}"
            f" subjects at {union.hosts + 1} hosts together, each beyond its own usual; the days before had at most"
            f" {union.baseline.most} (limit {round(limit)})"
        )
        return (Finding(self.name, None, None, Severity.HIGH, said, tuple(model.evidence), at_ns, None, about),)

    def _join(self, about: str, model: Model) -> None:
        group = self._groups.get((self._short(about), model.baseline.day)) if self._groups else None
        if group is not None:
            model.union = model.union or Union(Baseline(model.baseline.day))
            model.union.become(group, self._me, model.beyond, model.subjects)
        elif model.union is not None:
            model.union.leave()

    def _short(self, about: str) -> str:
        return f"{digest(about, self._key):016x}"

    def shared(self, now_ns: int) -> list[Part]:
        """See Fold.shared: of each model the inputs beyond what is usual and who sent them, today; of most at most."""
        day = now_ns // SECOND_NS // DAY
        known = ((len(each.beyond), about, each) for about, each in self._models.items() if each.baseline.day == day)
        most = sorted((each for each in known if each[0]), key=lambda each: (-each[0], each[1]))[:MAX_PARTS]
        return [
            part(self._short(about), day, model.alarmed == day, model.beyond, model.subjects)
            for _, about, model in most
        ]

    def hear(self, groups: Groups, me: str, now_ns: int) -> Found:
        """See Fold.hear."""
        self._since = self._since or now_ns // SECOND_NS // DAY
        if not groups and not self._groups:
            return NONE
        self._groups, self._me = groups, me
        found: list[Finding] = []
        for about, model in self._models.items():
            self._join(about, model)
            union = model.union
            if union is not None and union.hosts and model.baseline.day == now_ns // SECOND_NS // DAY:
                found += self._judge_together(about, model, union, now_ns)
        return found

    def merge(self, other: "ModelExtraction") -> None:
        """Take in what another host, with the same key, saw of the day that runs here; any number of times.

        A model that was never seen here is new here: what is usual for it is not known.
        """
        for about, theirs in list(other.models()):
            ours = self._models.get(about)
            if ours is None:
                ours = Model(theirs.baseline.day)
                self._models.put(about, ours)
            if ours.baseline.day == theirs.baseline.day:
                ours.beyond.merge(theirs.beyond)
                ours.subjects.merge(theirs.subjects)

    def models(self) -> Iterator[tuple[str, Model]]:
        """Return what is known of each model."""
        return self._models.items()

    def snapshot(self) -> dict[str, Any]:
        """See Fold.snapshot."""
        tables = {"uses": self._uses.pack(Use.pack), "models": self._models.pack(Model.pack)}
        return {**tables, "begun": self._begun.pack(), "since": self._since}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See Fold.restore."""
        made = ModelExtraction(self.params, self._key)
        try:
            made._uses.unpack(state_of(state, "uses"), Use.unpack)
            made._models.unpack(state_of(state, "models"), Model.unpack)
            made._begun.unpack(state.get("begun", {"settled": [], "probation": []}))
            made._since = whole(state.get("since", 0))
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError("not a state of `model_extraction`") from error
        self._uses, self._models, self._begun, self._since = made._uses, made._models, made._begun, made._since
