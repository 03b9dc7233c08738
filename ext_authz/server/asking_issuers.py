"""Asks issuers what tokens are, for all workers: in the control process, on a few threads an issuer.

Law: one question a token at a time, `concurrency` under way, a bounded queue; an issuer that fails is left alone for
a while (a circuit breaker), and everybody is told so at once. Tokens that were active before go first, so that a flood
of made-up ones keeps nobody's from being judged again. Non-goal: HTTP (issuer_kinds.py), waiting.
"""

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import IntEnum
from typing import Final, NamedTuple

from ext_authz.authn.asked import Answer, Answers, AnySettings
from ext_authz.server import log
from ext_authz.server.issuer_kinds import Claims, IssuerError, ask

QUEUED: Final = 256
"""Questions of each kind (tokens that were active before, others) that wait for an issuer."""
FAILURES: Final = 5
"""In a row, after which an issuer is left alone."""
PAUSE_SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
PROBLEM_SECONDS: Final = 1.0
"""How long "could not be asked" counts."""
INACTIVE_SECONDS: Final = 10
"""How long "not active" counts at most: a token may be asked about before its issuer's replicas know it."""
NS: Final = 1_000_000_000

Ask = Callable[[AnySettings, str], Claims | None]
Publish = Callable[[str, Answer], None]
Count = Callable[[str, str], None]


class Breaker:
    """Closed: everything passes. Open for a while after FAILURES in a row; then one trial at a time decides.

    Pure: `now` is monotonic seconds. Not for several threads at once.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._until = 0.0

    def is_open(self, now: float) -> bool:
        """Whether nothing may be asked now; a no after a failure counts as the trial."""
        if self._failures < FAILURES:
            return False
        if now < self._until:
            return True
        self._until = now + self._pause()  # others wait for what this trial finds
        return False

    def note(self, now: float, *, worked: bool) -> None:
        """Note how a question ended."""
        self._failures = 0 if worked else self._failures + 1
        if self._failures >= FAILURES:
            self._until = now + self._pause()

    def _pause(self) -> float:
        return PAUSE_SECONDS[min(self._failures - FAILURES, len(PAUSE_SECONDS) - 1)]

    @property
    def tripped(self) -> bool:
        """Whether the issuer failed too often of late."""
        return self._failures >= FAILURES


class IssuerAsker:
    """`publish` gets (key, answer) of every answer, `count` (issuer, what became of a question)."""

    def __init__(
        self, issuers: Iterable[AnySettings], publish: Publish, *, ask: Ask = ask, count: Count = lambda *_: None
    ) -> None:
        self._publish, self._ask, self._count = publish, ask, count
        self._lock = threading.Lock()
        self._issuers: dict[str, _Issuer] = {}
        self._answers = Answers()
        self.aim(issuers)

    def aim(self, issuers: Iterable[AnySettings]) -> None:
        """Ask these from now on; those that are the same keep their threads and their breaker."""
        wanted = {each.issuer: each for each in issuers}
        with self._lock:
            for name, issuer in list(self._issuers.items()):
                if wanted.get(name) != issuer.settings:
                    self._issuers.pop(name).stop()
            for name, settings in wanted.items():
                if name not in self._issuers:
                    self._issuers[name] = _Issuer(settings, self._answered, self._ask, self._count)

    def stop(self) -> None:
        """Ask no more; what is under way ends by itself."""
        self.aim(())

    def question(self, issuer: str, key: str, token: str, before: bool = False) -> None:  # noqa: FBT001, FBT002  from a link
        """Ask, or answer at once where the answer is known or the issuer is left alone. Does not wait.

        `before`: the token was active of late.
        """
        with self._lock:
            found = self._issuers.get(issuer)
        if found is None:
            return
        known = self._answers.get(key, time.time_ns())
        if known is not None:
            self._publish(key, known)
            return
        found.put(key, token, before=before)

    def tripped(self) -> dict[str, bool]:
        """Return which issuers are left alone at present."""
        with self._lock:
            return {name: each.breaker.tripped for name, each in self._issuers.items()}

    def _answered(self, key: str, answer: Answer) -> None:
        if not answer.problem:
            self._answers.put(key, answer)
        self._publish(key, answer)


class _Rank(IntEnum):
    KNOWN = 0
    OTHER = 1


class _Waiting(NamedTuple):
    """A question in its issuer's queue; `number` tells any two apart, so that tokens are never compared."""

    rank: _Rank
    number: int
    key: str
    token: str


class _Issuer:
    """One issuer's queue and threads, which start with the first question."""

    def __init__(self, settings: AnySettings, answered: Publish, ask: Ask, count: Count) -> None:
        self.settings = settings
        self.breaker = Breaker()
        self._answered, self._ask, self._count = answered, ask, count
        self._lock = threading.Lock()
        self._queue: queue.PriorityQueue[_Waiting] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._waiting = dict.fromkeys(_Rank, 0)
        self._under_way: set[str] = set()
        self._threads = 0
        self._stopped = False
        self._problem = ""

    def put(self, key: str, token: str, *, before: bool) -> None:
        rank = _Rank.KNOWN if before else _Rank.OTHER
        with self._lock:
            if self._stopped or key in self._under_way:
                return
            if self.breaker.is_open(time.monotonic()):
                problem, outcome = "its issuer does not answer and is left alone for a while", "left_alone"
            elif self._waiting[rank] >= QUEUED:
                problem, outcome = "too many questions to its issuer wait already", "shed"
            else:
                self._under_way.add(key)
                self._waiting[rank] += 1
                self._queue.put(_Waiting(rank, next(self._numbers), key, token))
                if self._threads < min(self.settings.concurrency, len(self._under_way)):
                    self._threads += 1
                    threading.Thread(target=self._run, name="issuer", daemon=True).start()
                return
        self._count(self.settings.issuer, outcome)
        self._answered(key, _problem(problem))

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            threads = self._threads
        for _ in range(threads):
            self._queue.put(_Waiting(_Rank.KNOWN, next(self._numbers), "", ""))

    def _run(self) -> None:
        while True:
            waiting = self._queue.get()
            if self._stopped:
                return
            with self._lock:
                self._waiting[waiting.rank] -= 1
            answer = self._answer(waiting.token)
            with self._lock:
                self._under_way.discard(waiting.key)
            self._answered(waiting.key, answer)

    def _answer(self, token: str) -> Answer:
        settings = self.settings
        try:
            claims = self._ask(settings, token)
        except Exception as error:  # noqa: BLE001  whatever it is, the issuer said nothing and the thread goes on
            what = str(error) if isinstance(error, IssuerError) else f"{type(error).__name__}: {error}"
            answered = isinstance(error, IssuerError) and error.answered
            return self._failed(what.replace(token, "…")[:300], answered=answered)
        with self._lock:
            self.breaker.note(time.monotonic(), worked=True)
            mended, self._problem = bool(self._problem), ""
        if mended:
            log.line("control", f"`{settings.issuer}` answers again")
        self._count(settings.issuer, "inactive" if claims is None else "active")
        return _of(claims, settings, time.time_ns())

    def _failed(self, problem: str, *, answered: bool) -> Answer:
        with self._lock:
            # Else whoever finds a token that the issuer chokes on could shut out everybody else's.
            self.breaker.note(time.monotonic(), worked=answered)
            new, self._problem = problem != self._problem, problem
        self._count(self.settings.issuer, "failed")
        if new:
            log.line("control", f"`{self.settings.issuer}` cannot be asked ({problem}); its tokens are refused")
        return _problem("its issuer could not be asked")


def _of(claims: Claims | None, settings: AnySettings, now_ns: int) -> Answer:
    if claims is None:
        return Answer(None, now_ns + min(settings.remember, INACTIVE_SECONDS) * NS)
    until_ns = now_ns + settings.remember * NS
    expires = claims.get("exp")
    if isinstance(expires, (int, float)) and not isinstance(expires, bool) and 0 <= expires < until_ns / NS:
        until_ns = int(expires) * NS
    answer = Answer(claims, until_ns)
    return replace(answer, size=len(answer.to_bytes("")))


def _problem(text: str) -> Answer:
    return Answer(None, time.time_ns() + int(PROBLEM_SECONDS * NS), text)
