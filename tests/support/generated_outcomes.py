"""Outcomes of checks for laws: anything that the types allow, and what no caller would send."""

from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st

from ext_authz.model import (
    Access,
    Approval,
    Auth,
    Body,
    Context,
    Decision,
    Identity,
    Outcome,
    Reason,
    Refusal,
    RequestFacts,
    Resource,
    Risk,
    ShadowMatch,
    Target,
)

# Odd in every way a caller may choose: lone surrogates, controls, and now and then something huge.
texts = st.sampled_from(
    [
        "",
        "a",
        "alice",
        "sub:alice",
        "\ud800",
        '"\n\r\0\x7f',
        "\u2028é",
        "%d%b",
        "50%%",
        "a.b",
        "x" * 900,
        "\0" * 4000,
        "\U0001f600" * 9000,
    ]
) | st.text(max_size=6)
numbers = st.integers() | st.sampled_from([2**53, -(2**53), 2**70, 10**400, 0])
attributes = st.dictionaries(texts, texts | numbers | st.booleans(), max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
names = st.frozensets(texts, max_size=3) | st.just(frozenset(f"role-{n}" for n in range(3000)))
approvals = st.builds(
    Approval,
    texts,
    texts,
    st.none() | numbers,
    st.none() | texts,
    st.none() | texts,
    st.none() | texts,
    st.none() | texts,
)
facts = st.builds(
    RequestFacts,
    texts,
    texts,
    texts,
    st.dictionaries(st.sampled_from(["authorization", "cookie", "x-request-id"]), st.tuples(texts), max_size=2),
    st.tuples(texts),
    st.builds(Body, st.binary(max_size=20), numbers, texts),
    texts,
    texts,
    texts,
    st.none() | numbers,
    st.dictionaries(texts, texts, max_size=2),
    texts,
)
identities = st.builds(
    Identity,
    texts,
    texts,
    st.sampled_from(Auth),
    texts,
    names,
    names,
    texts,
    names,
    st.dictionaries(texts | st.sampled_from(["a", "b"]), json_values, max_size=4),
    st.booleans(),
    st.none() | numbers,
    st.none() | numbers,
    texts,
    texts,
    texts,
    texts,
    texts,
    texts,
    texts,
)
accesses = st.builds(Access, st.builds(Resource, texts, texts, texts, attributes), texts)
addresses = st.none() | st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address)
contexts = st.builds(
    Context,
    addresses,
    numbers,
    numbers,
    st.none() | st.sampled_from(Risk),
    st.none() | st.lists(approvals, max_size=3).map(tuple),
    texts,
    texts,
    texts,
    texts,
    texts,
    numbers,
)
decisions = st.builds(
    Decision,
    st.booleans(),
    st.sampled_from(Reason),
    texts,
    st.lists(texts, max_size=3).map(tuple) | st.just(tuple(f"policy-{n}" for n in range(5000))),
    st.lists(st.builds(ShadowMatch, texts, texts), max_size=3).map(tuple),
    st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    st.just(()),
    st.none() | numbers,
)
outcomes = st.builds(
    Outcome,
    decisions,
    texts,
    texts,
    numbers,
    st.none() | facts,
    texts,
    st.none() | identities,
    st.none() | st.builds(Target, st.lists(accesses, max_size=3).map(tuple), texts, texts, attributes),
    st.none() | accesses,
    st.none() | contexts,
    st.none() | st.builds(Refusal, st.sampled_from(Reason), texts, texts),
)
