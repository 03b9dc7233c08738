"""Laws of what callers present: parameters of the query as any upstream may read them, and DPoP proofs of any bytes."""

import time
from urllib.parse import parse_qsl

import credentials as made
from hypothesis import given, settings
from hypothesis import strategies as st
from proofs import bound, proof, thumbprint

from ext_authz.authn.dpop import Proofs
from ext_authz.authn.once import MemoryOnce
from ext_authz.query_tokens import occurrences

NAME = "access_token"
SPELLINGS = st.sampled_from(
    [NAME, "%61ccess_token", "access%5ftoken", "ACCESS_TOKEN", "access_token[]",
     "access_token[0]", "access.token", "access+token", " access_token", "other", "a", "", "access_tokens", "xaccess_token"]
)  # fmt: skip
PIECES = st.lists(st.tuples(SPELLINGS, st.sampled_from(["=", "", "=="]), st.text("abc%2;=+&", max_size=4)), max_size=5)


@given(PIECES, st.sampled_from(["&", ";"]))
@settings(max_examples=300)
def test_what_any_parser_finds_under_the_name_is_an_occurrence(pieces, separator):
    query = separator.join(f"{name}{equals}{value}" for name, equals, value in pieces)
    found = occurrences(f"/x?{query}", NAME)
    for parser in ("&", ";"):
        for key, _ in parse_qsl(query, keep_blank_values=True, separator=parser):
            if key.strip().casefold() == NAME:
                assert found, query
    plain = [each for each in found if each.value is not None]
    for each in plain:
        assert (each.raw, each.value) in [tuple(part.partition("=")[::2]) for part in query.split("&")]


@given(PIECES)
def test_what_is_stripped_by_its_raw_names_leaves_no_occurrence(pieces):
    query = "&".join(f"{name}{equals}{value}" for name, equals, value in pieces)
    gone = {each.raw for each in occurrences(f"/x?{query}", NAME)}
    left = "&".join(part for part in query.split("&") if part.partition("=")[0] not in gone)
    assert occurrences(f"/x?{left}", NAME) == []


TOKEN = bound()


def judged(text):
    facts = made.facts({"dpop": text}, scheme="https", host="models.internal", path="/v2/models/fraud/infer")
    return Proofs(MemoryOnce()).problem(facts, TOKEN, thumbprint(made.ec_key(7)), time.time_ns())


@given(st.text(max_size=200) | st.text("eyJ.-_0aZ=", max_size=200))
@settings(max_examples=200)
def test_any_text_that_is_no_proof_is_a_problem_and_never_an_exception(text):
    assert judged(text)


@given(st.integers(0, 2000), st.sampled_from("AZaz09-_.= ,"))
@settings(max_examples=200)
def test_a_proof_with_any_character_changed_proves_nothing(position, character):
    good = proof(TOKEN)
    position %= len(good)
    assert judged(good) == ""
    if good[position] != character:
        assert judged(good[:position] + character + good[position + 1 :])
