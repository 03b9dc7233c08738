"""The outcome of a check to its audit event, on the check path: one canonical JSON line.

Law: no header value, token, cookie, body or query value is ever in an event; what is put together from pieces that
repeat is the same to the byte. Non-goal: other events (event.py), files (spool.py).
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

import orjson

from ext_authz.audit.bounds import MAX_BYTES, MAX_INTEGER, plain
from ext_authz.audit.event import CANONICAL, DECISION, encode, timestamp
from ext_authz.audit.redact import NOTHING, Redaction
from ext_authz.model import Access, Approval, Auth, Identity, Outcome, Pieces, Refusal, RequestFacts
from ext_authz.template import claim_at

MAX_QUERY_NAMES: Final = 32
MAX_INPUT_BYTES: Final = 65_536
_SHARED_BYTES: Final = 4096
_SECOND: Final = 1_000_000_000
_MOVING: Final = frozenset(
    (
        *((name,) for name in ("context", "decision_id", "event_id", "seq", "subject", "time", "ttl")),
        ("subject", "token_age"),
    )
)
"""What is erased whole of these leaves no place for it in a line that is put together."""
_QUERY_NAME: Final = re.compile(r"[A-Za-z0-9_.%\[\]-]{1,64}\Z")


class Scribe:
    """Writes the events of checks for one log, under the policies of one snapshot. Used by any thread.

    `claims_read` are the claim paths that loaded policies read; no other claim
    is recorded, and one that a token lacks is null. `query_key` (up to 64 bytes) keys the hash of the query
    string; without it only the parameters' names are recorded. `input_key` (likewise) keys a hash of the body's
    first MAX_INPUT_BYTES, by which detectors tell inputs apart; without it there is none.
    """

    __slots__ = ("_claims_read", "_input_key", "_log_id", "_opened_id", "_parted", "_query_key", "_redaction")

    def __init__(
        self,
        log_id: str,
        claims_read: frozenset[str],
        *,
        query_key: bytes = b"",
        redaction: Redaction = NOTHING,
        input_key: bytes = b"",
    ) -> None:
        self._log_id = log_id
        self._opened_id = orjson.dumps(log_id)[:-1]
        self._claims_read = claims_read
        self._query_key = query_key
        self._redaction = redaction or None
        self._parted = redaction.parted("context", _MOVING)
        self._input_key = input_key

    def line(self, outcome: Outcome, seq: int, coalesced: int = 0) -> bytes:
        """Return the event of one check as a line of JSON without newline; with `coalesced` it stands for that many."""
        now = timestamp(outcome.now_ns)
        context = _context(outcome, now, self._query_key)
        if self._input_key and outcome.facts is not None and outcome.facts.body.data:
            context["input"] = _input(outcome.facts.body.data, self._input_key)
        pieces = outcome.decision.pieces
        if pieces is not None and self._parted is not None and not coalesced:
            line = self._pieced(outcome, pieces, seq, now, context)
            if line is not None:
                return line
        event = _event(outcome, f"{self._log_id}:{seq}", seq, now, context, self._claims_read)
        if coalesced:
            event["coalesced"] = coalesced
        return encode(event if self._redaction is None else self._redaction.apply(event))

    def _pieced(self, outcome: Outcome, pieces: Pieces, seq: int, now: str, context: dict[str, Any]) -> bytes | None:
        """Return the line with what its repetitions share already in its place, the same to the byte.

        None where it is odd or long.
        """
        identity, ttl = outcome.identity, outcome.decision.ttl
        if identity is None or ttl is None or outcome.refusal is not None:
            return None
        kept, issued_at = pieces.event, identity.issued_at
        age = 0 if issued_at is None else outcome.now_ns // _SECOND - issued_at
        if not (-MAX_INTEGER <= age <= MAX_INTEGER and -MAX_INTEGER <= ttl <= MAX_INTEGER):
            return None
        try:
            # What another redaction left is none of ours.
            if kept is None or kept[2] is not self._redaction:
                kept = self._shared(_event(outcome, "", seq, now, {}, self._claims_read))
                if len(kept[0]) <= _SHARED_BYTES:
                    pieces.event = kept
            shared, erased, redaction = kept
            if redaction is not None:
                context, erased = self._redacted(context, erased)
            line = shared % (
                orjson.dumps(context, option=CANONICAL),
                orjson.dumps(outcome.decision_id),
                b'"erased":%b,' % orjson.dumps(erased) if erased else b"",
                self._opened_id,
                seq,
                seq,
                b"null" if issued_at is None else b"%d" % age,
                now.encode(),
                ttl,
            )
        except TypeError:
            return None
        return line if len(line) <= MAX_BYTES else None

    def _shared(self, event: dict[str, Any]) -> tuple[bytes, Sequence[str], Redaction | None]:
        """Return the line as a format with room for the values that change, in the canonical order of keys.

        These are `context`, `decision_id`, `erased` with its comma, `event_id` (up to its colon, and behind), `seq`,
        `subject.token_age`, `time` and `ttl`. Also returned is what was erased elsewhere than in the context, by whom.
        """
        if self._parted is not None:
            event = self._parted[1].apply(event)
        subject = event["subject"]
        line = (
            b"{%s" % _members(event, "", "context"),
            b'"context":%%b,%s' % _members(event, "context", "decision_id"),
            b'"decision_id":%%b,%%b"event_id":%%b:%%d",%s' % _members(event, "event_id", "seq"),
            b'"seq":%%d,%s' % _members(event, "seq", "subject"),
            b'"subject":{%s' % _members(subject, "", "token_age"),
            b'"token_age":%%b%s},"time":"%%b","ttl":%%d}' % _members(subject, "token_age", "~", behind=True),
        )
        return b"".join(line), event.get("erased", ()), self._redaction

    def _redacted(self, context: dict[str, Any], erased: Sequence[str]) -> tuple[dict[str, Any], Sequence[str]]:
        """Return the context without what is taken out of it, and all that is erased, in the order of the settings."""
        if self._parted is None or self._redaction is None:
            return context, erased
        made = self._parted[0].apply({"context": context})
        gone = {*erased, *made.get("erased", ())}
        return made["context"], [each for each in self._redaction.pointers if each in gone]


def decision_event(
    outcome: Outcome,
    *,
    log_id: str,
    seq: int,
    claims_read: frozenset[str],
    query_key: bytes = b"",
    redaction: Redaction = NOTHING,
    input_key: bytes = b"",
) -> bytes:
    """Return one event as a Scribe writes it."""
    scribe = Scribe(log_id, claims_read, query_key=query_key, redaction=redaction, input_key=input_key)
    return scribe.line(outcome, seq)


def _event(  # noqa: PLR0917  in the order of the line's beginning
    outcome: Outcome, event_id: str, seq: int, now: str, context: dict[str, Any], claims_read: frozenset[str]
) -> dict[str, Any]:
    decision, access, target = outcome.decision, outcome.access, outcome.target
    reason = decision.reason
    event: dict[str, Any] = {
        "schema": DECISION,
        "event_id": event_id,
        "seq": seq,
        "time": now,
        "decision_id": outcome.decision_id,
        "decision": "allow" if decision.allowed else "deny",
        "reason": reason,
        "http_status": reason.http_status,
        "policy_id": decision.policy_id,
        "policies": decision.policies,
        "shadow": [{"policy_id": each.policy_id, "effect": each.effect} for each in decision.shadow]
        if decision.shadow
        else (),
        "policy_revision": outcome.policy_revision,
        "context": context,
        "headers": [name for name, _ in decision.headers],
    }
    if outcome.identity is not None:
        event["subject"] = _subject(outcome.identity, outcome.now_ns, claims_read)
    if access is not None:
        event["resource"] = _resource(access)
        event["action"] = access.action
    if target is not None and len(target.accesses) > 1:
        event["accesses"] = [{"resource": _resource(each), "action": each.action} for each in target.accesses]
    if decision.ttl is not None:
        event["ttl"] = decision.ttl
    if outcome.refusal is not None:
        _refused(event, outcome.refusal)
    return event


def _members(of: Mapping[str, Any], after: str, before: str, *, behind: bool = False) -> bytes:
    """Return the members whose names stand between the two, for a format, each with a comma before it or behind."""
    made = orjson.dumps({key: of[key] for key in of if after < key < before}, option=CANONICAL)[1:-1]
    made = made.replace(b"%", b"%%")
    return b"" if not made else b"," + made if behind else made + b","


def _subject(identity: Identity, now_ns: int, claims_read: frozenset[str]) -> dict[str, Any]:
    subject: dict[str, Any] = {
        "id": identity.id,
        "name": identity.name,
        "auth": identity.auth,
        "issuer": identity.issuer,
        "roles": sorted(identity.roles) if identity.roles else (),
        "groups": sorted(identity.groups) if identity.groups else (),
        "org": identity.org,
        "scopes": sorted(identity.scopes) if identity.scopes else (),
        "mfa": identity.mfa,
        "workload": identity.workload,
        "cert_fingerprint": identity.cert_fingerprint,
        "token_age": None if identity.issued_at is None else now_ns // _SECOND - identity.issued_at,
    }
    if identity.token_id:
        subject["token_id"] = identity.token_id
    if identity.key_id:
        subject["key_id"] = identity.key_id
    if identity.cert_serial:
        subject["cert_serial"] = identity.cert_serial
        subject["cert_issuer"] = identity.cert_issuer
    if identity.via:
        subject["via"] = identity.via
    if claims_read and (identity.claims or identity.auth is Auth.JWT):
        claims = identity.claims if isinstance(identity.claims, dict) else dict(identity.claims)
        subject["claims"] = recorded = {}
        altered = []
        for path in claims_read:
            value = claim_at(claims, path)
            recorded[path] = made = plain(value)
            if made != value:
                altered.append(path)
        if altered:
            subject["claims_altered"] = sorted(altered)
    return subject


def _resource(access: Access) -> dict[str, Any]:
    resource = access.resource
    attributes = resource.attributes
    return {
        "type": resource.type,
        "id": resource.id,
        "version": resource.version,
        "attributes": attributes if type(attributes) is dict else dict(attributes),
    }


def _context(outcome: Outcome, now: str, query_key: bytes) -> dict[str, Any]:
    facts, context, target = outcome.facts, outcome.context, outcome.target
    made: dict[str, Any]
    if context is not None:
        ip, approvals = context.ip, context.approvals
        made = {
            "ip": None if ip is None else _address_text(int(ip), ip.version),
            "time": now if context.time_ns == outcome.now_ns else timestamp(context.time_ns),
            "risk": context.risk,
            "approvals": [_approval(each) for each in approvals] if approvals else approvals,
            "method": context.method,
            "host": context.host,
            "path": context.path,
            "protocol": context.protocol,
            "request_id": context.request_id,
            "bytes": context.bytes,
        }
    elif facts is not None:
        made = {
            "method": facts.method,
            "host": facts.host,
            "path": outcome.path or facts.path.partition("?")[0].partition("#")[0],
            "time": now if facts.time_ns is None else timestamp(facts.time_ns),
            "bytes": max(facts.body.size, 0),
            "protocol": "" if target is None else target.protocol,
            "request_id": (facts.header("x-request-id") or "")[:128],
        }
        if outcome.refusal is not None:
            made["ip"] = None if outcome.ip is None else _address_text(int(outcome.ip), outcome.ip.version)
    else:
        return {}
    if facts is not None:
        made["peer"] = facts.source_address
        if facts.forged:
            made["forged"] = facts.forged
        if "?" in facts.path:
            made["query"] = _query(facts, query_key)
    if target is not None:
        made["route"] = target.route
        if target.attributes:
            made["attributes"] = dict(target.attributes)
    return made


@lru_cache(maxsize=4096)
def _address_text(number: int, version: int) -> str:
    return str(IPv4Address(number) if version == 4 else IPv6Address(number))  # noqa: PLR2004


def _approval(approval: Approval) -> dict[str, Any]:
    return {
        "group": approval.group,
        "approver": approval.approver,
        "expires_at": approval.expires_at,
        "policy": approval.policy,
        "policy_digest": approval.policy_digest,
        "subject": approval.subject,
        "resource": approval.resource,
    }


def _query(facts: RequestFacts, key: bytes) -> dict[str, Any]:
    """Names of the parameters and a keyed hash of the whole.

    A parameter without a value may be a bare token (or padded base64), an odd
    name may hide one: both count as `?`.
    """
    query = facts.path.partition("?")[2]
    names: dict[str, None] = {}
    for part in query.split("&", MAX_QUERY_NAMES)[:MAX_QUERY_NAMES]:
        name, _, value = part.partition("=")
        names[name if value.strip("=") and _QUERY_NAME.match(name) else "?"] = None
    made: dict[str, Any] = {"names": list(names)}
    if key:
        made["hash"] = hashlib.blake2b(query.encode("utf-8", "surrogatepass"), key=key, digest_size=16).hexdigest()
    return made


def _input(body: bytes, key: bytes) -> str:
    return hashlib.blake2b(body[:MAX_INPUT_BYTES], key=key, digest_size=8).hexdigest()


def _refused(event: dict[str, Any], refusal: Refusal) -> None:
    event["detail"] = refusal.detail
    if refusal.claimed_subject:
        event["claimed_subject"] = refusal.claimed_subject
