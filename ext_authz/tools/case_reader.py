"""Policy test files (`*_test.yaml`) to cases.

Law: every mistake in every file is reported at its place; nothing is guessed.
Non-goal: running them (runner.py).
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import orjson

from ext_authz.documents import DocumentError, MappingNode, Mark, Node, Scalar, Sequence, load
from ext_authz.model import Approval, AttributeValue, Auth, Context, Identity, Query, Reason, Refusal, Resource, Risk
from ext_authz.policy.reader import Reader
from ext_authz.request import from_json, read
from ext_authz.state.changes import typed_subject
from ext_authz.tools.case_tables import read_fixtures, spelled_out
from ext_authz.tools.cases import (
    CASE_KEYS,
    CONTEXT_KEYS,
    DECISIONS,
    DEFAULT_AT_NS,
    EXPECT_KEYS,
    FILE_KEYS,
    REQUEST_CONTEXT_KEYS,
    SUBJECT_KEYS,
    Case,
    CaseState,
    Expectation,
)

SECOND: Final = 1_000_000_000
_WHOLE_ONLY: Final = ("subject", "resource", "action", "headers", "remove_headers")
_APPROVER_KEYS: Final = ("group", "approver")
_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_|~-]+\Z")

_Read = TypeVar("_Read")


def load_cases(texts: Mapping[str, str]) -> tuple[Case, ...]:
    """Return the cases of test files (name to text). Raises DocumentError with every mistake in all of them."""
    reader = Reader()
    cases: list[Case] = []
    for file, text in texts.items():
        try:
            node = load(text, file)
        except DocumentError as error:
            reader.mistakes += error.diagnostics
            continue
        if node is None:
            reader.mistake(Mark(file, 1, 1), "the file holds no tests")
            continue
        cases += _file(reader, node)
    if reader.mistakes:
        # What rows of a table share is read for each of them.
        raise DocumentError(tuple(dict.fromkeys(reader.mistakes)), texts)
    return tuple(cases)


def _file(reader: Reader, node: Node) -> list[Case]:
    mapping = reader.mapping(node, "a test file")
    if mapping is None:
        return []
    for key, _ in mapping:
        if key.text not in FILE_KEYS:
            reader.unknown_key(key, FILE_KEYS, "key")
    listed = mapping.get("tests")
    if listed is None:
        reader.mistake(mapping, "`tests` is required")
        return []
    tests = reader.sequence(listed, "`tests`")
    if tests is None:
        return []
    names: dict[str, Mark] = {}
    written = mapping.get("at")
    at_ns = DEFAULT_AT_NS if written is None else reader.moment_ns(written, "`at`")
    fixtures = read_fixtures(reader, mapping)
    for name, read_one in (("subject", _Case.subject), ("resource", _Case.resource)):
        for fixture in fixtures[name].values():
            read_one(_Case(reader, {}, at_ns or 0), fixture)
    spelled = [
        one
        for each in tests
        if (test := reader.mapping(each, "a test")) is not None
        for one in spelled_out(reader, test, fixtures)
    ]
    found = [_Case(reader, names, at_ns or 0).read(each) for each in spelled]
    return [case for case in found if case is not None]


class _Case:
    """Reads one case; mistakes go to the reader."""

    def __init__(self, reader: Reader, names: dict[str, Mark], at_ns: int) -> None:
        self.reader, self.names, self.clock = reader, names, at_ns

    def read(self, mapping: MappingNode) -> Case | None:
        reader = self.reader
        before = len(reader.mistakes)
        self._keys(mapping, CASE_KEYS, "key of a test")
        name = self._required(mapping, "name", lambda each: reader.text(each, "`name`"))
        if name is not None:
            if name in self.names:
                reader.mistake(mapping.key_mark("name"), f"another test of this file is called `{name}`")
            self.names[name] = mapping.mark
        at = mapping.get("at")
        at_ns = self.clock if at is None else reader.moment_ns(at, "`at`")
        whole = mapping.get("request") is not None
        expect = self._required(mapping, "expect", lambda each: self._expect(each, whole=whole))
        clock = self.clock = at_ns or 0
        context = self._context(mapping.get("context"), clock, whole=whole)
        query = None if whole else self._query(mapping, context)
        request = self._request(mapping) if whole else None
        if len(reader.mistakes) > before or name is None or expect is None or context is None:
            return None
        return Case(
            name, mapping.mark, clock, expect, query, request, CaseState(risk=context.risk, given=context.approvals)
        )

    def _keys(self, mapping: MappingNode, known: tuple[str, ...], what: str) -> None:
        for key, _ in mapping:
            if key.text not in known:
                self.reader.unknown_key(key, known, what)

    def _required(self, mapping: MappingNode, key: str, read: Callable[[Node], _Read | None]) -> _Read | None:
        node = mapping.get(key)
        if node is None:
            self.reader.mistake(mapping, f"`{key}` is required")
            return None
        return read(node)

    def _query(self, mapping: MappingNode, context: Context | None) -> Query | None:
        subject = self._required(mapping, "subject", self.subject)
        resource = self._required(mapping, "resource", self.resource)
        action = self._required(mapping, "action", lambda each: self.reader.text(each, "`action`"))
        attributes = self._attributes(mapping.get("attributes"))
        if subject is None or resource is None or action is None or context is None:
            return None
        return Query(subject, resource, action, context, attributes)

    def subject(self, node: Node) -> Identity | None:
        reader = self.reader
        mapping = reader.mapping(node, "`subject`")
        if mapping is None:
            return None
        self._keys(mapping, SUBJECT_KEYS, "key of a subject")
        before = len(reader.mistakes)
        text = {key: self._text(mapping, key) for key in ("id", "issuer", "org", "workload", "cert_fingerprint")}
        auth = self._auth(mapping, text["id"])
        age = mapping.get("token_age")
        age_ms = reader.duration_ms(age, "`token_age`") if age is not None else None
        claims = mapping.get("claims")
        if claims is not None and not isinstance(claims, MappingNode):
            reader.mistake(claims, "`claims` must be a mapping")
        sets = {key: self._texts(mapping, key) for key in ("roles", "groups", "scopes")}
        mfa = self._flag(mapping, "mfa")
        if len(reader.mistakes) > before or auth is None:
            return None
        subject_id = "anonymous:" if auth is Auth.ANONYMOUS else typed_subject(text["id"])
        return Identity(
            id=subject_id,
            name=_bare(subject_id),
            auth=auth,
            issuer=text["issuer"],
            roles=sets["roles"],
            groups=sets["groups"],
            org=text["org"],
            scopes=sets["scopes"],
            claims=_typed(claims) if isinstance(claims, MappingNode) else {},
            mfa=mfa,
            issued_at=self.clock // SECOND - age_ms // 1000 if age_ms is not None else None,
            workload=text["workload"] or (subject_id if auth is Auth.MTLS else ""),
            cert_fingerprint=text["cert_fingerprint"],
        )

    def _auth(self, mapping: MappingNode, subject_id: str) -> Auth | None:
        """Return how the subject proved itself: as written, else as its name says."""
        written = mapping.get("auth")
        if written is not None:
            choice = self.reader.choice(written, [each.value for each in Auth], "`auth`")
            auth = Auth(choice) if choice is not None else None
        elif not subject_id:
            self.reader.mistake(mapping, "a subject needs an `id`, or `auth: anonymous`")
            return None
        else:
            auth = _auth_of(typed_subject(subject_id))
        if auth is Auth.ANONYMOUS and subject_id:
            self.reader.mistake(mapping.key_mark("id"), "an anonymous subject has no `id`")
        elif auth is not None and auth is not Auth.ANONYMOUS and not subject_id:
            self.reader.mistake(mapping, "a subject needs an `id`, or `auth: anonymous`")
        return auth

    def resource(self, node: Node) -> Resource | None:
        reader = self.reader
        mapping = reader.mapping(node, "`resource`")
        if mapping is None:
            return None
        kind = self._required(mapping, "type", lambda each: reader.text(each, "`type`"))
        name = self._text(mapping, "id")
        attributes: dict[str, AttributeValue] = {}
        for key, value in mapping:
            if key.text not in ("type", "id", "version"):
                attributes[key.text] = reader.text(value, f"`{key.text}`") or ""
        return None if kind is None else Resource(kind, name, self._text(mapping, "version"), attributes)

    def _attributes(self, node: Node | None) -> Mapping[str, AttributeValue]:
        mapping = self.reader.mapping(node, "`attributes`") if node is not None else None
        if mapping is None:
            return {}
        found: dict[str, AttributeValue] = {}
        for key, value in mapping:
            plain = _typed(value)
            if isinstance(plain, (str, int, bool)):
                found[key.text] = plain
            else:
                self.reader.mistake(value, f"`{key.text}` must be text, a whole number or a flag")
        return found

    def _context(self, node: Node | None, clock: int, *, whole: bool) -> Context | None:
        reader = self.reader
        if node is None:
            return Context(None, clock, clock, Risk.LOW, ())
        mapping = reader.mapping(node, "`context`")
        if mapping is None:
            return None
        before = len(reader.mistakes)
        known = REQUEST_CONTEXT_KEYS if whole else CONTEXT_KEYS
        for key, _ in mapping:
            if whole and key.text in CONTEXT_KEYS and key.text not in known:
                reader.mistake(key, f"`{key.text}` comes from the request itself")
            elif key.text not in known:
                reader.unknown_key(key, known, "key of a context")
        risk = self._risk(mapping.get("risk"))
        approvals = self._approvals(mapping.get("approvals"))
        ip = mapping.get("ip")
        address = self._address(ip) if ip is not None and not whole else None
        time = mapping.get("time")
        time_ns = reader.moment_ns(time, "`time`") if time is not None else clock
        if len(reader.mistakes) > before or time_ns is None:
            return None
        return Context(address, time_ns, clock, risk, approvals)

    def _risk(self, node: Node | None) -> Risk | None:
        if node is None:
            return Risk.LOW
        choice = self.reader.choice(node, [*(each.value for each in Risk), "unknown"], "`risk`")
        return None if choice in (None, "unknown") else Risk(choice)

    def _approvals(self, node: Node | None) -> tuple[Approval, ...] | None:
        """Return one approval per item, each by somebody else; `unknown`: the state is too old to say."""
        if node is None:
            return ()
        if isinstance(node, Scalar) and node.text == "unknown":
            return None
        if not isinstance(node, Sequence):
            self.reader.mistake(node, "`approvals` must be a list of groups, or `unknown`")
            return ()
        found: list[Approval] = []
        for number, item in enumerate(node, 1):
            group, approver = self._approval(item, f"sub:approver-{number}")
            if group:
                found.append(Approval(group=group, approver=approver))
        return tuple(found)

    def _approval(self, item: Node, default: str) -> tuple[str, str]:
        if not isinstance(item, MappingNode):
            return self.reader.text(item, "an approval") or "", default
        self._keys(item, _APPROVER_KEYS, "key of an approval")
        group = self._required(item, "group", lambda each: self.reader.text(each, "`group`")) or ""
        approver = self._text(item, "approver")
        return group, approver if approver.startswith("os:") else typed_subject(approver) if approver else default

    def _address(self, node: Node) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        text = self.reader.text(node, "`ip`")
        if text is None or text == "unknown":
            return None
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            self.reader.mistake(node, f"`{text}` is neither an IP address nor `unknown`")
            return None
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return mapped or address

    def _request(self, mapping: MappingNode) -> bytes | None:
        reader = self.reader
        for key in ("subject", "resource", "action", "attributes"):
            if mapping.get(key) is not None:
                reader.mistake(mapping.key_mark(key), f"`{key}` comes from the `request` itself")
        node = mapping.get("request")
        if not isinstance(node, MappingNode):
            reader.mistake(mapping.key_mark("request"), "`request` must be a CheckRequest")
            return None
        try:
            data = from_json(orjson.dumps(_proto_json(node, typed=False)).decode())
        except ValueError as error:
            reader.mistake(node, str(error))
            return None
        facts = read(data, frozenset())
        if isinstance(facts, Refusal) and facts.detail.startswith("no HTTP"):
            reader.mistake(node, "the CheckRequest has no `attributes.request.http`")
            return None
        return data

    def _expect(self, node: Node, *, whole: bool) -> Expectation | None:
        reader = self.reader
        mapping = reader.mapping(node, "`expect`")
        if mapping is None:
            return None
        before = len(reader.mistakes)
        self._keys(mapping, EXPECT_KEYS, "key of `expect`")
        for key in _WHOLE_ONLY:
            if not whole and mapping.get(key) is not None:
                reader.mistake(mapping.key_mark(key), f"`{key}` can be expected only of a whole `request`")
        decision = self._required(mapping, "decision", lambda each: reader.choice(each, DECISIONS, "decision"))
        reason = mapping.get("reason")
        choice = reader.choice(reason, [each.value for each in Reason], "reason") if reason is not None else None
        status = mapping.get("http_status")
        expectation = Expectation(
            decision=decision or "",
            reason=Reason(choice) if choice is not None else None,
            policy=self._optional(mapping, "policy"),
            policies=self._list(mapping, "policies"),
            shadow=self._list(mapping, "shadow"),
            ttl=self._ttl(mapping.get("ttl")),
            http_status=reader.count(status, "`http_status`", 100, 599) if status is not None else None,
            subject=self._optional(mapping, "subject"),
            resource=self._expected_resource(mapping.get("resource")),
            action=self._optional(mapping, "action"),
            headers=self._headers(mapping.get("headers")),
            remove_headers=self._list(mapping, "remove_headers") or (),
        )
        return expectation if len(reader.mistakes) == before and decision is not None else None

    def _ttl(self, node: Node | None) -> int | None:
        milliseconds = self.reader.duration_ms(node, "`ttl`") if node is not None else None
        return None if milliseconds is None else milliseconds // 1000

    def _expected_resource(self, node: Node | None) -> tuple[str, str] | None:
        mapping = self.reader.mapping(node, "`resource`") if node is not None else None
        if mapping is None:
            return None
        self._keys(mapping, ("type", "id"), "key of an expected resource")
        kind = self._required(mapping, "type", lambda each: self.reader.text(each, "`type`"))
        return None if kind is None else (kind, self._text(mapping, "id"))

    def _headers(self, node: Node | None) -> Mapping[str, str | None]:
        mapping = self.reader.mapping(node, "`headers`") if node is not None else None
        if mapping is None:
            return {}
        found: dict[str, str | None] = {}
        for key, value in mapping:
            if not _HEADER.match(key.text):
                self.reader.mistake(key, f"`{key.text}` is not a lower-case header name")
            elif not isinstance(value, Scalar):
                self.reader.mistake(value, f"`{key.text}` must be text, or `null` for a header that is not set")
            else:
                found[key.text] = None if value.is_null else value.text
        return found

    def _text(self, mapping: MappingNode, key: str) -> str:
        return self._optional(mapping, key) or ""

    def _optional(self, mapping: MappingNode, key: str) -> str | None:
        """Return a text; `""` is one here: an expected policy may be none."""
        node = mapping.get(key)
        if node is None or (isinstance(node, Scalar) and not node.plain and not node.text):
            return None if node is None else ""
        return self.reader.text(node, f"`{key}`")

    def _texts(self, mapping: MappingNode, key: str) -> frozenset[str]:
        return frozenset(self._list(mapping, key) or ())

    def _list(self, mapping: MappingNode, key: str) -> tuple[str, ...] | None:
        node = mapping.get(key)
        if node is None:
            return None
        if isinstance(node, Sequence) and not node.items:
            return ()
        return tuple(text for text, _ in self.reader.scalars(node, f"`{key}`"))

    def _flag(self, mapping: MappingNode, key: str) -> bool:
        node = mapping.get(key)
        if node is None:
            return False
        return self.reader.choice(node, ("true", "false"), f"`{key}`") == "true"


def _auth_of(subject_id: str) -> Auth:
    if subject_id.startswith("sub:"):
        return Auth.JWT
    if subject_id.startswith("key:"):
        return Auth.API_KEY
    return Auth.ANONYMOUS if subject_id.startswith("anonymous:") else Auth.MTLS


def _bare(subject_id: str) -> str:
    """Return the bare name; a SPIFFE ID is its own."""
    return subject_id if subject_id.startswith("spiffe://") else subject_id.partition(":")[2]


def _typed(node: Node) -> Any:  # noqa: ANN401  JSON
    """Return plain data in which unquoted whole numbers, flags and null are what they look like."""
    if isinstance(node, Sequence):
        return [_typed(each) for each in node]
    if isinstance(node, MappingNode):
        return {key.text: _typed(value) for key, value in node}
    if node.is_null:
        return None
    if node.plain and node.text in ("true", "false"):
        return node.text == "true"
    if node.plain and _WHOLE.match(node.text):
        return int(node.text)
    return node.text


def _proto_json(node: Node, *, typed: bool) -> Any:  # noqa: ANN401  JSON
    """Return proto JSON: every scalar is the text as written, but those of free-form metadata."""
    if typed:
        return _typed(node)
    if isinstance(node, Sequence):
        return [_proto_json(each, typed=False) for each in node]
    if isinstance(node, MappingNode):
        return {key.text: _proto_json(value, typed=key.text in _FREE_FORM) for key, value in node}
    return None if node.is_null else node.text


_WHOLE: Final = re.compile(r"-?(0|[1-9][0-9]{0,15})\Z")
_FREE_FORM: Final = frozenset({"filterMetadata", "filter_metadata"})
