"""What the configuration says must not be recorded is not, and the event says that it was there."""

import orjson
import pytest

from ext_authz.audit.redact import Redaction

EVENT = {"a": {"b": 1, "c": [1, {"d": 2}, 3], "x/y": 5, "m~n": 6}, "e": "f", "t": ({"u": 1},)}


@pytest.mark.parametrize(
    ("pointer", "left"),
    [
        ("/a/b", {**EVENT, "a": {"c": [1, {"d": 2}, 3], "x/y": 5, "m~n": 6}}),
        ("/a/c/1/d", {**EVENT, "a": {**EVENT["a"], "c": [1, {}, 3]}}),
        ("/a/c/0", {**EVENT, "a": {**EVENT["a"], "c": [{"d": 2}, 3]}}),
        ("/a/x~1y", {**EVENT, "a": {"b": 1, "c": [1, {"d": 2}, 3], "m~n": 6}}),
        ("/a/m~0n", {**EVENT, "a": {"b": 1, "c": [1, {"d": 2}, 3], "x/y": 5}}),
        ("/e", {"a": EVENT["a"], "t": EVENT["t"]}),
        ("/t/0/u", {**EVENT, "t": [{}]}),
    ],
)
def test_what_a_pointer_names_is_erased_and_named_and_nothing_is_changed_in_place(pointer, left):
    before = orjson.dumps(EVENT)
    assert Redaction([pointer]).apply(EVENT) == {**left, "erased": [pointer]}
    assert orjson.dumps(EVENT) == before


@pytest.mark.parametrize(
    "pointer", ["/z", "/a/z", "/a/c/3", "/a/c/-1", "/a/c/01", "/a/c/x", "/e/f", "/e/0", "/a/c/1/d/2"]
)
def test_what_is_not_there_is_not_said_to_be_erased(pointer):
    assert Redaction([pointer]).apply(EVENT) == EVENT


def test_several_pointers_are_named_in_their_order():
    assert Redaction(["/e", "/z", "/a"]).apply(EVENT) == {"t": EVENT["t"], "erased": ["/e", "/a"]}
    assert not Redaction()
