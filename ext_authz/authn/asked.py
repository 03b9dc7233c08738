"""Tokens that only their issuer can judge: opaque ones (RFC 7662), and a cluster's (Kubernetes TokenReview).

Law: a check reads what the issuer said and never asks; what it said ends by `remember` and `exp`, and without an
answer the token is refused. Revocation is looked at on every check by the chain. Non-goal: asking, and waiting.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ext_authz.authn import claims as read
from ext_authz.authn.asked_settings import AskedSettings, IntrospectionSettings, TokenReviewSettings
from ext_authz.authn.binding import binding
from ext_authz.authn.cache import Verdicts
from ext_authz.authn.claimed_identity import IdentityReader, audience, mfa_until
from ext_authz.authn.claims import ClaimError
from ext_authz.authn.jws import JwsError, parse_compact, strict_json
from ext_authz.authn.jwt import NS, VerifiedToken, unheld
from ext_authz.authn.names import claimed
from ext_authz.model import Question, Reason, Refusal

AnySettings = IntrospectionSettings | TokenReviewSettings
MAX_OPAQUE_BYTES: Final = 8192
MAX_ANSWER_BYTES: Final = 64 * 1024
_JWT_DOTS: Final = 2
_REMEMBERED: Final = 8192
_REMEMBERED_BYTES: Final = 8 * 1024 * 1024
# RFC 6750 2.1: b64token.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*\Z")
_USES: Final = frozenset({"bearer", "dpop", "access", "access_token"})


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What an issuer said: `claims`, None where the token is not active; or `problem`: why it said nothing.

    It counts until `until_ns` (Unix nanoseconds). `size` is its bytes.
    """

    claims: Mapping[str, Any] | None
    until_ns: int
    problem: str = ""
    size: int = 0

    def to_bytes(self, key: str) -> bytes:
        """Serialise for other processes, with the question's key."""
        return orjson.dumps([key, self.claims, self.until_ns, self.problem, self.size])

    @classmethod
    def from_bytes(cls, data: bytes) -> "tuple[str, Answer]":
        """Restore (key, answer) of what `to_bytes` gave. Raises ValueError."""
        key, claims, until_ns, problem, size = orjson.loads(data)
        return key, cls(claims, until_ns, problem, size)


class Answers:
    """What issuers said of late, by question; outlives snapshots. Made-up tokens push no good answer out."""

    def __init__(self) -> None:
        self._active: Verdicts[str, Answer] = Verdicts(_REMEMBERED, _REMEMBERED_BYTES)
        self._others: Verdicts[str, Answer] = Verdicts(_REMEMBERED, _REMEMBERED)

    def get(self, key: str, now_ns: int) -> Answer | None:
        """Return the answer to a question that still counts at `now_ns`; what an issuer said goes before a problem."""
        for kept in (self._active, self._others):
            answer = kept.get(key)
            if answer is not None and now_ns < answer.until_ns:
                return answer
        return None

    def knew(self, key: str) -> bool:
        """Whether the issuer's last word was that the token is active, however long ago."""
        return self._active.get(key) is not None

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer in place of an earlier one; a problem unsays nothing."""
        self._others.drop(key)
        if not answer.problem:
            self._active.drop(key)
        if answer.claims is None:
            self._others.put(key, answer)
        else:
            self._active.put(key, answer, max(1, answer.size))

    def __len__(self) -> int:
        return len(self._active) + len(self._others)


class AskedTokens:
    """Judges tokens by their issuers' answers; immutable but for its memory of what was read."""

    def __init__(
        self, issuers: Iterable[AnySettings], prefixes: Iterable[str] = (), answers: Answers | None = None
    ) -> None:
        """`prefixes` are the subject prefixes of all other issuers; `answers` is where answers arrive."""
        self.issuers: Mapping[str, AnySettings] = {each.issuer: each for each in issuers}
        self._digests = {name: each.digest for name, each in self.issuers.items()}
        opaque = [
            each for each in self.issuers.values() if each.token_prefix or isinstance(each, IntrospectionSettings)
        ]
        # The longest prefix first; without one last of all.
        self._opaque = sorted(opaque, key=lambda each: -len(each.token_prefix or ""))
        own = {each.subject_prefix for each in self.issuers.values()}
        self._reader = IdentityReader(own.union(prefixes), ())
        self._answers = answers if answers is not None else Answers()
        self._named: Verdicts[str, str] = Verdicts(_REMEMBERED, _REMEMBERED_BYTES)
        self._read: Verdicts[str, tuple[Answer, VerifiedToken | Refusal]] = Verdicts(_REMEMBERED, _REMEMBERED_BYTES)

    def issuer_of(self, token: str) -> AnySettings | None:
        """Return whose token this claims to be, None where it is nobody's here."""
        if token.count(".") == _JWT_DOTS:
            name = self._named.get(token)
            if name is None:
                name = _issuer_in(token)
                self._named.put(token, name, len(token))
            if name:
                return self.issuers.get(name)
        for each in self._opaque:
            if token.startswith(each.token_prefix) if each.token_prefix else token.count(".") != _JWT_DOTS:
                return each
        return None

    def authenticate(self, token: str, settings: AnySettings, fingerprint: str, now_ns: int) -> VerifiedToken | Refusal:
        """Judge a token of `settings`; `fingerprint` is the caller's certificate's (SHA-256 hex, "" without one)."""
        if len(token) > MAX_OPAQUE_BYTES or not _TOKEN.match(token):
            return Refusal(Reason.INVALID_TOKEN, "the token is too large or not of a token's characters")
        key = hashlib.sha256(self._digests[settings.issuer] + token.encode("ascii")).hexdigest()
        answer = self._answers.get(key, now_ns)
        if answer is None:
            question = Question(settings.issuer, key, token, self._answers.knew(key))
            return Refusal(Reason.INVALID_TOKEN, "no answer from its issuer yet", asks=question)
        if answer.problem:
            return Refusal(Reason.INVALID_TOKEN, answer.problem)
        if answer.claims is None:
            return Refusal(Reason.INVALID_TOKEN, "its issuer says that it is not active")
        known = self._read.get(key)
        if known is None or known[0] is not answer:
            known = answer, self._judged(answer, answer.claims, settings)
            self._read.put(key, known, max(1, answer.size))
        verified = known[1]
        if isinstance(verified, Refusal):
            return verified
        problem = unheld(verified, fingerprint, now_ns)
        return verified.at(now_ns) if problem is None else problem

    def _judged(self, answer: Answer, payload: Mapping[str, Any], settings: AnySettings) -> VerifiedToken | Refusal:
        try:
            _addressed(payload, settings)
            issued, expires, not_before = (read.date(payload, name) for name in ("iat", "exp", "nbf"))
            begins, early = max(
                ((issued or 0), "`iat` is in the future"), ((not_before or 0), "`nbf` is in the future")
            )
            bound = binding(payload, settings.binding, settings.dpop)
            identity = self._reader.identity(
                payload,
                settings,
                issued_at=issued,
                expires_at=answer.until_ns // NS if expires is None else expires,
                proven_key=bound.key or "",
            )
            lapses = mfa_until(payload, settings, issued)
        except ClaimError as error:
            return Refusal(Reason.INVALID_TOKEN, str(error), claimed(payload.get("sub")))
        from_ns = max(0, begins - settings.leeway) * NS
        until_ns = answer.until_ns if expires is None else expires * NS
        return VerifiedToken(identity, from_ns, until_ns, early, bound, answer.size).lapsing(lapses)


def _addressed(payload: Mapping[str, Any], settings: AnySettings) -> None:
    """Raise ClaimError unless the answer is the asked issuer's, for us, and about an access token."""
    if "iss" in payload and payload["iss"] != settings.issuer:
        raise ClaimError("`iss` is another issuer than the one that was asked")
    audience(payload, settings.audiences)
    for name in ("client_id", "username"):
        read.text(payload, name)
    for name in ("token_type", "token_use"):
        # RFC 7662 4: a refresh token is active too.
        if name in payload and str(payload[name]).lower() not in _USES:
            raise ClaimError(f"`{name}` is no access token's")


def _issuer_in(token: str) -> str:
    """Return the `iss` that a JWT claims, "" where it is none or names none."""
    try:
        named = strict_json(parse_compact(token).payload, "the payload").get("iss")
    except JwsError:
        return ""
    return named if isinstance(named, str) else ""


def mistakes(issuers: Sequence[AskedSettings]) -> Iterable[tuple[int, str, str]]:
    """Yield (index, key, message) of what makes two issuers' tokens indistinguishable."""
    for index, each in enumerate(issuers):
        for other in issuers[:index]:
            one, two = each.token_prefix, other.token_prefix
            introspected = isinstance(each, IntrospectionSettings) and isinstance(other, IntrospectionSettings)
            if one is None and two is None and introspected:
                yield index, "issuer", "a second issuer of opaque tokens needs a `token_prefix`"
            elif one is not None and two is not None and (one.startswith(two) or two.startswith(one)):
                yield index, "token_prefix", f"`{one}` cannot be told from `{two}`"
