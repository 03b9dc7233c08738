from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.template import MAX_RENDERED_BYTES, TemplateError, compile_template, encode


def render(source, **values):
    return compile_template(source, lambda name: name in values).render(values.__getitem__)


def test_text_and_variables_alternate():
    assert render("a-${x}-${y}.", x="1", y=2) == "a-1-2."


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a,b", "a,b"),
        (["a", "b"], "a,b"),
        (["a,x", "b"], "a%2Cx,b"),
        (frozenset({"b", "a"}), "a,b"),
        ("50%", "50%25"),
        ("zürich", "z%C3%BCrich"),
        ("a\r\nx-admin: 1", "a%0D%0Ax-admin: 1"),
        (True, "true"),
        (None, ""),
        ("\ud800", "%ED%A0%80"),
    ],
)
def test_values_cannot_leave_their_place(value, shown):
    assert encode(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [("alice ", "alice%20"), ("  alice", "%20%20alice"), ("a b", "a b"), ("   ", ""), ("", "")]
)
def test_http_cannot_trim_one_value_into_another(value, shown):
    assert render("${x}", x=value) == shown


def test_an_empty_value_at_the_end_leaves_no_space_that_may_not_be_sent():
    assert render("${x} of ${y}", x="alice", y="") == "alice of%20"


@pytest.mark.parametrize("source", ["${nobody}", "${", "${x", "a\nb", "é", "${x}${}", "${X Y}"])
def test_a_template_that_cannot_be_compiled_is_refused_at_load(source):
    with pytest.raises(TemplateError):
        compile_template(source, lambda name: name == "x")


def test_a_value_too_long_is_refused_and_never_cut():
    with pytest.raises(TemplateError):
        render("${x}", x="a" * (MAX_RENDERED_BYTES + 1))


@given(st.lists(st.text(min_size=1), min_size=1))
def test_a_joined_list_can_be_taken_apart_again(items):
    shown = encode(items)
    assert all(" " <= c <= "~" for c in shown)
    back = [unquote(part, errors="surrogatepass") for part in shown.split(",")]
    assert back == items
