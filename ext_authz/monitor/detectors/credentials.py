"""Credentials that do not hold, many of them: by source, on one name, and spread over both.

Law: nobody gets a name here. What failed claimed a name, it does not have it; findings carry the source, and a
victim's own failures from where it is at home count apart. Non-goal: expired and revoked credentials, which once held.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ext_authz.monitor.detectors.baseline import Baseline, Limits, state_of, texts, whole
from ext_authz.monitor.detectors.finding import MAX_EVIDENCE, Finding, Severity, SnapshotError
from ext_authz.monitor.detectors.fold import ALLOWED, NOBODY, NONE, REFUSED, Fold, Found, kept
from ext_authz.monitor.detectors.others import Groups, Part, Union, part
from ext_authz.monitor.detectors.recent import MOST, Recent
from ext_authz.monitor.detectors.seen import DAY, HOUR, SECOND_NS, Seen, network
from ext_authz.monitor.detectors.sketch import Distinct, digest
from ext_authz.monitor.detectors.table import Table

FAILED: Final = frozenset({"invalid_token", "invalid_api_key", "invalid_certificate", "token_not_bound"})
_SETTLED: Final = 3
_WINDOWS: Final = {HOUR: "hour", DAY: "day"}


@dataclass(frozen=True, slots=True)
class CredentialParams:
    """Parameters of `credential_stuffing` (docs/monitoring.md). At most 64 names and sources are told apart per key."""

    window: int = 600
    """Seconds of the short window."""
    failures: int = 10
    """Failures of one source within the window, on `names` distinct names."""
    names: int = 5
    slow_names: int = 10
    """Distinct names one source failed on within 24 hours: low and slow."""
    own_names: int = 40
    """Distinct names that failed from where they were seen to succeed: an outage, or an attacker beside them."""
    unnamed: int = 60
    """Failures of one source within the window that claimed no name (unknown API keys, unreadable tokens)."""
    sources: int = 8
    """Distinct sources that failed on one name within 24 hours, in `failures` failures."""
    spread: Limits = field(default_factory=lambda: Limits(floor=40, factor=3.0, spread=1.0, warm_days=3))
    """Distinct names that failed anywhere within the hour, beyond what is usual for the hour, …"""
    spread_sources: int = 10
    """… from at least this many sources."""
    spread_day: Limits = field(default_factory=lambda: Limits(floor=100, factor=3.0, spread=1.0, warm_days=3))
    """The same within the day (UTC): so slow that no hour shows it."""
    ipv6_prefix: int = 64
    """Length of the network that counts as one source in IPv6."""
    quiet: int = 3600
    """Seconds before the same source, name or spread is reported again."""
    max_sources: int = 20_000
    max_names: int = 20_000
    max_homes: int = 50_000
    """Pairs of name and source that succeeded and are remembered."""


class _Source:
    __slots__ = ("alarmed", "count", "evidence", "names", "own", "times", "unnamed")

    def __init__(self) -> None:
        self.count = 0
        self.alarmed = 0
        self.times: deque[int] = deque(maxlen=MOST)
        self.unnamed: deque[int] = deque(maxlen=MOST)
        self.names = Recent()
        self.own = Recent()
        self.evidence: list[str] = []

    def pack(self) -> list[Any]:
        rest = [self.names.pack(), self.own.pack(), self.evidence]
        return [self.count, self.alarmed, list(self.times), list(self.unnamed), *rest]

    @classmethod
    def unpack(cls, packed: Any) -> "_Source":  # noqa: ANN401
        count, alarmed, times, unnamed, names, own, evidence = packed
        made = cls()
        made.count, made.alarmed = whole(count), whole(alarmed)
        made.times.extend(whole(each) for each in times)
        made.unnamed.extend(whole(each) for each in unnamed)
        made.names, made.own = Recent.unpack(names), Recent.unpack(own)
        made.evidence = texts(evidence, MAX_EVIDENCE)
        return made


class _Spread:
    """Distinct names and sources of the window that runs, and the most that was usual."""

    __slots__ = ("alarmed", "baseline", "evidence", "length", "names", "sources", "union", "window")

    def __init__(self, length: int) -> None:
        self.length = length
        self.window = 0
        self.alarmed = 0
        self.names = Distinct()
        self.sources = Distinct()
        self.evidence: list[str] = []
        self.baseline = Baseline(0)
        self.union = Union(Baseline(0))

    def turn(self, window: int, limits: Limits) -> None:
        """Begin another window."""
        self.baseline.note(window * self.length // DAY, 0, limits)
        self.union.baseline.note(window * self.length // DAY, 0, limits)
        self.window, self.names, self.sources = window, Distinct(), Distinct()
        self.evidence.clear()

    def pack(self) -> list[Any]:
        rest = [self.names.pack(), self.sources.pack(), self.evidence, self.baseline.pack()]
        return [self.window, self.alarmed, *rest, self.union.baseline.pack()]

    @classmethod
    def unpack(cls, length: int, packed: Any) -> "_Spread":  # noqa: ANN401
        window, alarmed, names, sources, evidence, baseline, *together = packed
        made = cls(length)
        made.window, made.alarmed = whole(window), whole(alarmed)
        made.names, made.sources = Distinct.unpack(names), Distinct.unpack(sources)
        made.evidence, made.baseline = texts(evidence, MAX_EVIDENCE), Baseline.unpack(baseline)
        if together:
            made.union = Union(Baseline.unpack(together[0]))
        return made


class CredentialStuffing(Fold):
    """Many credentials that do not hold."""

    name = "credential_stuffing"
    kinds = frozenset({ALLOWED, REFUSED, NOBODY})

    def __init__(self, params: CredentialParams | None = None, key: bytes = b"") -> None:
        """`key` keys the hashes; secret, up to 64 bytes."""
        self.params = params or CredentialParams()
        self._key = key
        self._sources: Table[_Source] = Table(self.params.max_sources)
        self._names: Table[_Source] = Table(self.params.max_names)
        self._homes: Table[int] = Table(self.params.max_homes)
        self._found: Table[int] = Table(self.params.max_names)
        """Who was accepted where guessing went on, and when that was told."""
        self._hour = _Spread(HOUR)
        self._day = _Spread(DAY)
        self._groups: Groups = {}
        self._me = ""

    def see(self, one: Seen) -> Found:
        """Take one event in."""
        if one.subject:
            return self._succeeded(one)
        if one.reason not in FAILED:
            return NONE
        source = network(one.ip, 32, self.params.ipv6_prefix)
        found = [*self._by_source(one, source), *self._by_name(one, source), *self._everywhere(one, source)]
        return found or NONE

    def _succeeded(self, one: Seen) -> Found:
        source = network(one.ip, 32, self.params.ipv6_prefix)
        if not source:
            return NONE
        home = f"{one.name}\n{source}"
        first = self._homes.get(home)
        known = self._sources.get(source)
        in_alarm = known is not None and known.alarmed and one.second - known.alarmed <= DAY
        if first is None:
            # A name first seen from a source in alarm is not at home there: it may be what the guessing found.
            if not in_alarm:
                self._homes.put(home, one.second)
        elif one.second - first > HOUR:
            self._homes.settle(home)
        if known is None or not in_alarm or first is not None or not one.allowed:
            return NONE
        if not known.names.since(one.second - DAY):
            return NONE
        known.names.forget(one.second + 1)
        # One name is one piece of news, wherever it goes on: an account of one's own hides no other that was found.
        told = self._found.get(one.subject)
        if told is not None and one.second - told < self.params.quiet:
            return NONE
        self._found.put(one.subject, one.second)
        said = (
            f"{source} was accepted as `{one.subject}` after {known.count} credentials from there did not hold;"
            " it was never seen there before"
        )
        evidence = (*known.evidence[: MAX_EVIDENCE - 1], one.event_id)
        return (Finding(self.name, None, source, Severity.CRITICAL, said, evidence, one.at_ns, None, one.subject),)

    def _by_source(self, one: Seen, source: str) -> Found:
        if not source:
            return NONE
        params, now = self.params, one.second
        known = self._sources.get(source)
        if known is None:
            known = _Source()
            self._sources.put(source, known)
        known.count += 1
        if known.count == _SETTLED:
            self._sources.settle(source)
        kept(known.evidence, one.event_id)
        known.times.append(now)
        if not one.claimed:
            known.unnamed.append(now)
        elif f"{one.claimed}\n{source}" in self._homes:
            known.own.add(self._short(one.claimed), now)
        else:
            known.names.add(self._short(one.claimed), now)
        if known.alarmed and now - known.alarmed < params.quiet:
            return NONE
        said, severity = self._weigh(known, now)
        if not said:
            return NONE
        known.alarmed = now
        self._sources.settle(source)
        claimed = one.claimed or None
        return (
            Finding(self.name, None, source, severity, f"{source}: {said}", tuple(known.evidence), one.at_ns, claimed),
        )

    def _weigh(self, known: _Source, now: int) -> tuple[str, Severity]:
        params = self.params
        begin = now - params.window
        minutes = f"{params.window // 60} minutes"
        if len(known.names) >= params.names:
            failures, names = sum(at >= begin for at in known.times), known.names.since(begin)
            if failures >= params.failures and names >= params.names:
                return f"{failures} credentials for {names} names failed within {minutes}", Severity.HIGH
            names = known.names.since(now - DAY)
            if names >= params.slow_names and not (known.alarmed and now - known.alarmed < DAY):
                return f"credentials for {names} names failed within 24 hours (low and slow)", Severity.HIGH
        if len(known.unnamed) >= min(params.unnamed, MOST) and known.unnamed[0] >= begin:
            return f"{len(known.unnamed)} credentials without a name failed within {minutes}", Severity.LOW
        own = known.own.since(begin) if len(known.own) >= params.own_names else 0
        if own >= params.own_names:
            return (
                f"credentials of {own} callers at home there failed within {minutes}: an outage, or worse",
                Severity.LOW,
            )
        return "", Severity.LOW

    def _by_name(self, one: Seen, source: str) -> Found:
        if not one.claimed or not source:
            return NONE
        params, now = self.params, one.second
        if f"{one.claimed}\n{source}" in self._homes:
            return NONE
        known = self._names.get(one.claimed)
        if known is None:
            known = _Source()
            self._names.put(one.claimed, known)
        known.count += 1
        if known.count == _SETTLED:
            self._names.settle(one.claimed)
        known.times.append(now)
        kept(known.evidence, one.event_id)
        known.names.add(self._short(source), now)
        if len(known.names) < params.sources or (known.alarmed and now - known.alarmed < params.quiet):
            return NONE
        failures, sources = sum(at >= now - DAY for at in known.times), known.names.since(now - DAY)
        if sources < params.sources or failures < params.failures:
            return NONE
        known.alarmed = now
        said = f"credentials in the name of `{one.claimed}` failed from {sources} sources within 24 hours"
        evidence = tuple(known.evidence)
        return (Finding(self.name, None, source, Severity.MEDIUM, said, evidence, one.at_ns, one.claimed),)

    def _everywhere(self, one: Seen, source: str) -> Found:
        """Judge distinct names together: many sources with one failure each show up nowhere else."""
        if not one.claimed or f"{one.claimed}\n{source}" in self._homes:
            return NONE
        params, name, origin = self.params, digest(one.claimed, self._key), digest(source, self._key)
        for spread, limits in ((self._hour, params.spread), (self._day, params.spread_day)):
            window = one.second // spread.length
            if window > spread.window:
                spread.turn(window, limits)
                self._join(spread)
            spread.names.add(name)
            spread.sources.add(origin)
            if spread.union.hosts:
                spread.union.one.add(name)
                spread.union.two.add(origin)
            kept(spread.evidence, one.event_id)
        for judge in (self._judge, self._judge_together):
            found = judge(one.at_ns, self._hour, params.spread)
            if found:
                self._day.alarmed = self._day.window
            found = found or judge(one.at_ns, self._day, params.spread_day)
            if found:
                return found
        return NONE

    def _judge(self, at_ns: int, spread: "_Spread", limits: Limits) -> Found:
        names, sources = len(spread.names), len(spread.sources)
        limit = spread.baseline.threshold(limits)
        spread.baseline.note(spread.window * spread.length // DAY, names, limits)
        if names <= limit or sources < self.params.spread_sources or spread.alarmed == spread.window:
            return NONE
        return self._alarm(at_ns, spread, names, sources, f" (limit {round(limit)})")

    def _judge_together(self, at_ns: int, spread: "_Spread", limits: Limits) -> Found:
        union = spread.union
        if not union.hosts or not spread.evidence:
            return NONE
        day, least = spread.window * spread.length // DAY, self.params.spread_sources
        limit = union.judge(day, at_ns // SECOND_NS, limits, least)
        if not limit or spread.alarmed == spread.window:
            return NONE
        told = f", at {union.hosts + 1} hosts together (limit {round(limit)})"
        return self._alarm(at_ns, spread, len(union.one), len(union.two), told)

    def _alarm(self, at_ns: int, spread: "_Spread", names: int, sources: int, told: str) -> Found:
        spread.alarmed = spread.window
        within = "hour" if spread.length == HOUR else "day (low and slow)"
        said = f"credentials for about {names} names failed from about {sources} sources within the {within}{told}"
        return (Finding(self.name, None, None, Severity.HIGH, said, tuple(spread.evidence), at_ns),)

    def _join(self, spread: "_Spread") -> None:
        group = self._groups.get((_WINDOWS[spread.length], spread.window))
        if group is None:
            spread.union.leave()
        else:
            spread.union.become(group, self._me, spread.names, spread.sources)

    def shared(self, now_ns: int) -> list[Part]:
        """See Fold.shared: names and sources of the hour and the day."""
        return [
            part(_WINDOWS[each.length], each.window, each.alarmed == each.window, each.names, each.sources)
            for each in self.spreads
            if each.evidence and each.window == now_ns // SECOND_NS // each.length
        ]

    def hear(self, groups: Groups, me: str, now_ns: int) -> Found:
        """See Fold.hear."""
        self._groups, self._me = groups, me
        found: Found = NONE
        for spread, limits in ((self._hour, self.params.spread), (self._day, self.params.spread_day)):
            self._join(spread)
            if spread.window == now_ns // SECOND_NS // spread.length and not found:
                found = self._judge_together(now_ns, spread, limits)
                if found:
                    self._day.alarmed = self._day.window
        return found

    def _short(self, value: str) -> str:
        return f"{digest(value, self._key):016x}"

    def merge(self, other: "CredentialStuffing") -> None:
        """Take in what another host, with the same key, saw of the windows that run here; any number of times."""
        for ours, theirs in zip(self.spreads, other.spreads, strict=True):
            if ours.window == theirs.window:
                ours.names.merge(theirs.names)
                ours.sources.merge(theirs.sources)

    @property
    def spreads(self) -> "tuple[_Spread, _Spread]":
        """The hour and the day that run."""
        return self._hour, self._day

    def snapshot(self) -> dict[str, Any]:
        """See Fold.snapshot."""
        return {
            "sources": self._sources.pack(_Source.pack),
            "names": self._names.pack(_Source.pack),
            "homes": self._homes.pack(int),
            "found": self._found.pack(int),
            "hour": self._hour.pack(),
            "day": self._day.pack(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See Fold.restore."""
        params = self.params
        made = CredentialStuffing(params, self._key)
        try:
            made._sources.unpack(state_of(state, "sources"), _Source.unpack)
            made._names.unpack(state_of(state, "names"), _Source.unpack)
            made._homes.unpack(state_of(state, "homes"), whole)
            made._found.unpack(state.get("found", {"settled": [], "probation": []}), whole)
            made._hour = _Spread.unpack(HOUR, state["hour"])
            made._day = _Spread.unpack(DAY, state["day"])
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError("not a state of `credential_stuffing`") from error
        self.__dict__.update(made.__dict__)
