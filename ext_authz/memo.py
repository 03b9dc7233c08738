"""What the checks of one snapshot need not find out again: pure functions of values that never change.

Law: an entry is a function of the snapshot and its key alone; nothing of the clock, the state, a body or an
expiry is in one, and a check gives the same bytes without. Bounded in entries and in bytes that callers
choose; only what an authenticated caller asked for is kept. Non-goal: outliving a snapshot.
"""

from typing import Final

from ext_authz.authn.cache import Verdicts
from ext_authz.headers import Steady
from ext_authz.mappers.adapter import Reads
from ext_authz.mappers.routes import MATCHED_HEADERS, ROUTE_EXTENSION, RouteMatch, RouteTable
from ext_authz.model import Access, Auth, Identity, Pieces, RequestFacts, Target
from ext_authz.policy.engine import CompiledPolicy, Verdict

ROUTES: Final = 4096
PAIRS: Final = 2048
"""Of each kind, entries of one generation; there are two."""
KEY_BYTES: Final = 1024 * 1024
"""Of a generation of keys: paths, hosts and names are the callers' choice."""
PATH_BYTES: Final = 1024
"""A longer path is not kept: its segments take many times its length."""
ANSWERS: Final = 16
"""Sets of a pair's policies that hold; each condition doubles what is possible, few occur."""
STEADY_BYTES: Final = 2048
"""Larger headers are rendered each time."""
CONTENT_TYPE: Final = "content-type"

RouteKey = tuple[str, str, str, str | None, tuple[str, ...] | None, str, bool]
AccessKey = tuple[int, str, str, str, str]


class Answer:
    """What follows when certain policies of a pair hold: the verdict, and of an allow the headers and their bytes."""

    __slots__ = ("pieces", "prepared", "steady", "verdict")

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self.prepared = False
        self.steady: Steady | None = None
        self.pieces: Pieces | None = None

    def prepare(self, steady: Steady | None) -> None:
        """Keep the headers of an allow that no request changes, if there are any and they are few."""
        if steady is not None and steady.size <= STEADY_BYTES:
            self.pieces = Pieces()
            self.steady = steady
        self.prepared = True


class Pair:
    """One identity and one access: the policies that concern them, and the answers so far.

    Holds both, so that their addresses, by which it is found, stay theirs.
    """

    __slots__ = ("access", "answers", "concerned", "identity")

    def __init__(self, identity: Identity, access: Access, concerned: tuple[CompiledPolicy, ...]) -> None:
        self.identity = identity
        self.access = access
        self.concerned = concerned
        self.answers: dict[int, Answer] = {}

    def keep(self, holding: int, answer: Answer) -> None:
        """Keep what follows when the policies of the bits `holding` hold."""
        if len(self.answers) >= ANSWERS:
            self.answers = {}
        self.answers[holding] = answer


class Memo:
    """The memory of one snapshot. Used by several threads: a race loses at most an entry."""

    __slots__ = ("_accesses", "_pairs", "_read_by_meaning", "_routes", "_told")

    def __init__(self, routes: RouteTable) -> None:
        self._read_by_meaning = routes.header_names - {CONTENT_TYPE}
        self._told = bool(routes.sources)
        self._routes: Verdicts[RouteKey, tuple[RouteMatch, Target | None]] = Verdicts(ROUTES, KEY_BYTES)
        self._accesses: Verdicts[AccessKey, Access] = Verdicts(PAIRS, KEY_BYTES)
        self._pairs: Verdicts[tuple[int, int], Pair] = Verdicts(PAIRS, PAIRS)

    def key(self, facts: RequestFacts) -> RouteKey | None:
        """Return all that a request's route depends on (its meaning too, without body); None where more does."""
        if self._told and (facts.told or facts.context_extensions):
            return None
        body, headers = facts.body, facts.headers
        empty = not (body.size or body.data or body.partial)
        if not (self._read_by_meaning if empty else MATCHED_HEADERS).isdisjoint(headers):
            return None
        return (
            facts.method,
            facts.path,
            facts.host,
            facts.context_extensions.get(ROUTE_EXTENSION),
            headers.get(CONTENT_TYPE),
            facts.http_protocol,
            empty,
        )

    def route(self, key: RouteKey) -> tuple[RouteMatch, Target | None] | None:
        """Return the route of a key, and the meaning where nothing else has a part in it."""
        return self._routes.get(key)

    def keep(self, key: RouteKey | None, match: RouteMatch, target: Target, identity: Identity) -> Target | None:
        """Keep what an authenticated caller's request means; return it with accesses that stay the same objects.

        None: what it means came from the body.
        """
        if not _from_path(key, match) or identity.auth is Auth.ANONYMOUS:
            return None
        entry = id(match.entry)
        accesses = tuple([self._same(entry, access) for access in target.accesses])
        target = Target(accesses, target.route, target.protocol, target.attributes)
        if key is not None and len(key[1]) <= PATH_BYTES:
            whole = key[-1] or match.entry.adapter is None
            weight = sum(map(len, key[:3])) + len(key[3] or "") + sum(map(len, key[4] or ())) + len(key[5])
            self._routes.put(key, (match, target if whole else None), weight)
        return target

    def pair(self, identity: Identity, access: Access) -> Pair | None:
        """Return what is known of an identity and an access (these objects, not equals of them)."""
        pair = self._pairs.get((id(identity), id(access)))
        return pair if pair is not None and pair.identity is identity and pair.access is access else None

    def keep_pair(self, pair: Pair) -> None:
        """Keep a pair."""
        self._pairs.put((id(pair.identity), id(pair.access)), pair)

    def sizes(self) -> tuple[int, int, int]:
        """Return how many routes, accesses and pairs are kept."""
        return len(self._routes), len(self._accesses), len(self._pairs)

    def _same(self, entry: int, access: Access) -> Access:
        """Return the access of these values: its attributes are the route entry's and the catalog's."""
        resource = access.resource
        key = (entry, resource.type, resource.id, resource.version, access.action)
        known = self._accesses.get(key)
        if known is None:
            self._accesses.put(key, access, sum(map(len, key[1:])))
            known = access
        return known


def _from_path(key: RouteKey | None, match: RouteMatch) -> bool:
    """Whether the names of what is accessed come from nothing but path and headers."""
    if match.entry.adapter is None or (key is not None and key[-1]):
        return True
    return match.found is not None and match.found.row.place.reads is not Reads.MEANING
