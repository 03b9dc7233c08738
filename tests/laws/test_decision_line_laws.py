"""What is put together from pieces that repeat is what the plain encoder writes, to the byte."""

from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any

import orjson
import pytest
from generated_outcomes import contexts, facts, identities, numbers, outcomes, texts
from hypothesis import event, given, settings
from hypothesis import strategies as st

from ext_authz.audit.decision import Scribe
from ext_authz.audit.redact import Redaction
from ext_authz.model import Access, Auth, Decision, Identity, Outcome, Pieces, Reason, Resource


def tamed(value: Any) -> Any:
    """Return the value with short texts of Unicode and numbers of 40 bits only, so that its line is an ordinary one."""
    if isinstance(value, Enum | bool | float | bytes) or value is None:
        return value
    if isinstance(value, str):
        return value[:9].encode("utf-8", "replace").decode()
    if isinstance(value, int):
        return value % 2**40
    if isinstance(value, dict):
        return {tamed(name): tamed(each) for name, each in value.items()}
    if isinstance(value, list | tuple | frozenset):
        return type(value)(tamed(each) for each in list(value)[:3])
    if is_dataclass(value) and not isinstance(value, type):
        given = [each.name for each in fields(value) if each.init and each.compare]
        return replace(value, **{name: tamed(getattr(value, name)) for name in given})
    return value


passing = st.fixed_dictionaries(
    {
        "decision_id": texts,
        "now_ns": numbers | st.integers(0, 2**62),
        "context": st.none() | contexts,
        "facts": st.none() | facts,
        "path": texts,
        "ttl": st.none() | numbers | st.integers(0, 3600),
    }
)
"""What differs between checks of one pair of identity and access that the same policies decide."""
POINTERS = (
    "/context", "/context/path", "/context/ip", "/context/query/names", "/context/approvals/0", "/context/input",
    "/subject/name", "/subject/claims/a", "/subject/claims", "/subject/workload", "/subject/token_age", "/subject",
    "/resource/id", "/resource", "/action", "/accesses", "/ttl", "/ttl/x", "/policies/0", "/nothing",
)  # fmt: skip
"""What may be redacted, whole and in part, there or not."""


@settings(max_examples=100)
@given(
    outcomes,
    identities,
    st.lists(st.tuples(passing, st.integers(0, 2**53 - 1)), min_size=2, max_size=3),
    st.frozensets(texts | st.sampled_from(["a", "a.b", "b"]), max_size=3),
    st.lists(st.sampled_from(POINTERS), max_size=4),
    st.integers(0, 7),
)
def test_a_line_put_together_from_what_repeats_is_the_plain_encoders_to_the_byte(  # noqa: PLR0917
    outcome: Outcome,
    identity: Identity,
    checks: list[tuple[dict[str, Any], int]],
    claims_read: frozenset[str],
    redact: list[str],
    wild: int,
) -> None:
    form = tamed if wild else lambda value: value
    scribe = Scribe("w-1", form(claims_read), query_key=b"k", input_key=b"i", redaction=Redaction(redact))
    pieces = Pieces()
    steady = form(replace(outcome, identity=identity, refusal=outcome.refusal if wild == 1 else None))
    for values, seq in checks:
        changed = {name: form(value) for name, value in values.items()}
        decision = replace(steady.decision, ttl=changed.pop("ttl"))
        one = replace(steady, **changed, decision=decision)
        pieced = replace(one, decision=replace(decision, pieces=pieces))
        assert scribe.line(pieced, seq) == scribe.line(one, seq)
        assert scribe.line(pieced, seq, 7) == scribe.line(one, seq, 7)
    event("put together" if pieces.event else "plain")


def test_what_repeats_is_never_taken_from_a_line_that_was_redacted_otherwise() -> None:
    identity = Identity("sub:a", "a", Auth.JWT, "https://i")
    made = Decision(True, Reason.ALLOWED, "p", ("p",), ttl=60, pieces=Pieces())
    outcome = Outcome(made, "d", "rev", 10**18, identity=identity)
    for pointers in ((), ("/subject/name", "/context/path"), ("/subject/issuer",), ()):
        line = orjson.loads(Scribe("w-1", frozenset(), redaction=Redaction(pointers)).line(outcome, 1))
        assert ("name" in line["subject"], "issuer" in line["subject"]) == (
            "/subject/name" not in pointers,
            "/subject/issuer" not in pointers,
        )
        assert line.get("erased", []) == [each for each in pointers if each != "/context/path"]


@pytest.mark.parametrize("odd", [{"now_ns": -1}, {"now_ns": 10**30}, {"ttl": 2**53}, {"ttl": None}])
def test_what_repeats_is_kept_after_the_first_line_and_left_alone_where_a_value_is_odd(odd: dict[str, Any]) -> None:
    identity = Identity("sub:a%%d", "a", Auth.JWT, "https://i", roles=frozenset({"r"}), issued_at=5)
    pieces = Pieces()
    usual = Outcome(
        Decision(True, Reason.ALLOWED, "p", ("p",), ttl=60, pieces=pieces),
        "d",
        "rev",
        10**18,
        identity=identity,
        access=Access(Resource("model", "m"), "infer"),
    )
    scribe = Scribe("w-1", frozenset())
    first = orjson.loads(scribe.line(usual, 1))
    assert pieces.event is not None
    assert (first["subject"]["id"], first["event_id"], first["ttl"]) == ("sub:a%%d", "w-1:1", 60)
    strange = replace(
        usual, now_ns=odd.get("now_ns", usual.now_ns), decision=replace(usual.decision, ttl=odd.get("ttl", 60))
    )
    plain = replace(strange, decision=replace(strange.decision, pieces=None))
    assert scribe.line(strange, 2) == scribe.line(plain, 2)
