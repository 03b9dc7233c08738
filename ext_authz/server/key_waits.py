"""Checks of tokens whose key is not known yet, parked for as long as one look at the issuer's keys may take.

Law: only a look that was really asked for is waited for, so made-up key ids cost a few short waits and then nothing.
Non-goal: fetching (keys.py, in the control process).
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from ext_authz.server.asking import Asking
from ext_authz.server.parking import MAX_PARKED, SECONDS, Again, Parking


@dataclass(slots=True)
class _Issuer:
    asking: Asking = field(default_factory=Asking)
    sought: dict[str, float] = field(default_factory=dict)


class KeyWaits:
    """`ask` tells the control process (issuer, kid) and must not wait."""

    def __init__(self, ask: Callable[[str, str], None], *, seconds: float = SECONDS, limit: int = MAX_PARKED) -> None:
        self._ask, self._seconds = ask, seconds
        self._parking = Parking("key-waits", seconds, limit)
        self._issuers: dict[str, _Issuer] = {}

    @property
    def waiting(self) -> int:
        """How many checks are parked."""
        return self._parking.waiting

    def start(self) -> None:
        """Begin to watch deadlines."""
        self._parking.start()

    def stop(self) -> None:
        """Run everything parked again, now."""
        self._parking.stop()

    def worth(self, issuer: str, kid: str) -> bool:
        """Whether to park a check for this key; asks for it where nobody did yet. `issuer` is a configured one."""
        now = time.monotonic()
        with self._parking.condition:
            if self._parking.full:
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
        self._parking.park(issuer, kid, again)

    def arrived(
        self, known: Mapping[str, Collection[str]], absent: Mapping[str, Collection[str]], changed: Collection[str]
    ) -> None:
        """Run again what waits for a key that is `known` now or was looked for and is `absent`, by issuer.

        `changed` are the issuers that have other keys than before.
        """
        now = time.monotonic()
        settled = {issuer: {*known.get(issuer, ()), *absent.get(issuer, ())} for issuer in {*known, *absent}}
        with self._parking.condition:
            for issuer, kids in settled.items():
                here = self._issuers.get(issuer)
                if here is None:
                    continue
                if issuer in changed:
                    here.asking.found()
                here.sought = {kid: at for kid, at in here.sought.items() if kid not in kids}
                for kid in absent.get(issuer, ()):
                    here.asking.missed(kid, now)
        self._parking.run(
            lambda each: each.name in settled.get(each.issuer, ()) or (not each.name and each.issuer in changed)
        )
