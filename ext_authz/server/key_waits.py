"""Checks of tokens whose key is not known yet, parked for as long as one look at the issuer's keys may take.

Law: every parked check is run again exactly once, by its deadline; only a look that was really asked for is waited
for, so made-up key ids cost a few short waits and then nothing. Non-goal: fetching (keys.py, in the control process).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from ext_authz.server.asking import Asking

SECONDS: Final = 0.2
"""Less than the 250 ms after which the generated Envoy configurations give up."""
MAX_PARKED: Final = 64

Again = Callable[[], None]


@dataclass(slots=True)
class _Issuer:
    asking: Asking = field(default_factory=Asking)
    sought: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Parked:
    issuer: str
    kid: str
    due: float
    again: Again


class KeyWaits:
    """`ask` tells the control process (issuer, kid) and must not wait."""

    def __init__(self, ask: Callable[[str, str], None], *, seconds: float = SECONDS, limit: int = MAX_PARKED) -> None:
        self._ask, self._seconds, self._limit = ask, seconds, limit
        self._condition = threading.Condition()
        self._issuers: dict[str, _Issuer] = {}
        self._parked: list[_Parked] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._expire, name="key-waits", daemon=True)

    @property
    def waiting(self) -> int:
        """How many checks are parked."""
        return len(self._parked)

    def start(self) -> None:
        """Begin to watch deadlines."""
        self._thread.start()

    def stop(self) -> None:
        """Run everything parked again, now."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._run(lambda _: True)

    def worth(self, issuer: str, kid: str) -> bool:
        """Whether to park a check for this key; asks for it where nobody did yet. `issuer` is a configured one."""
        now = time.monotonic()
        with self._condition:
            if self._stopping or len(self._parked) >= self._limit:
                return False
            known = self._issuers.setdefault(issuer, _Issuer())
            asked = known.sought.get(kid)
            if asked is not None and now - asked < self._seconds:
                return True
            known.sought = {name: at for name, at in known.sought.items() if now - at < self._seconds}
            if not known.asking.may(kid, now):
                return False
            known.sought[kid] = now
        self._ask(issuer, kid)
        return True

    def park(self, issuer: str, kid: str, again: Again) -> None:
        """Call `again` once the key may be known, or at the deadline; on another thread."""
        with self._condition:
            self._parked.append(_Parked(issuer, kid, time.monotonic() + self._seconds, again))
            self._condition.notify()

    def arrived(
        self, known: Mapping[str, Collection[str]], absent: Mapping[str, Collection[str]], changed: Collection[str]
    ) -> None:
        """Run again what waits for a key that is `known` now or was looked for and is `absent`, by issuer.

        `changed` are the issuers that have other keys than before.
        """
        now = time.monotonic()
        settled = {issuer: {*known.get(issuer, ()), *absent.get(issuer, ())} for issuer in {*known, *absent}}
        with self._condition:
            for issuer, kids in settled.items():
                here = self._issuers.get(issuer)
                if here is None:
                    continue
                if issuer in changed:
                    here.asking.found()
                here.sought = {kid: at for kid, at in here.sought.items() if kid not in kids}
                for kid in absent.get(issuer, ()):
                    here.asking.missed(kid, now)
        self._run(lambda each: each.kid in settled.get(each.issuer, ()) or (not each.kid and each.issuer in changed))

    def _run(self, ready: Callable[[_Parked], bool]) -> None:
        with self._condition:
            due = [each for each in self._parked if ready(each)]
            self._parked = [each for each in self._parked if each not in due]
        for each in due:
            with contextlib.suppress(Exception):  # one caller's broken connection is not the others' affair
                each.again()

    def _expire(self) -> None:
        while True:
            with self._condition:
                if self._stopping:
                    return
                first = min((each.due for each in self._parked), default=None)
                if first is None or first > time.monotonic():
                    self._condition.wait(None if first is None else max(0.001, first - time.monotonic()))
            self._run(lambda each: each.due <= time.monotonic())
