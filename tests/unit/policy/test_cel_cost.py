"""The estimate of what an expression makes: of real trees an upper bound in order, of odd bytes never a pass."""

from itertools import pairwise

import pytest

from ext_authz.policy import cel
from ext_authz.policy.cel_cost import MAX_WORK, work_of


def work(expression):
    pytest.importorskip("cel_expr_python")
    return work_of(cel.Cel(expression)._program.serialize())


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ("subject.mfa", "subject.mfa && subject.name == 'a'"),
        ("[subject.id].exists(a, a == 'x')", "[subject.id].exists(a, a + a == 'x')"),
        ("['a'].map(x, x).size() == 0", "['a', 'b'].map(x, x).size() == 0"),
        ("['a'].map(x, x + x).size() == 0", "['a'].map(x, x + x).map(x, x + x).size() == 0"),
        ("[1].exists(a, true)", "[1].exists(a, [1].exists(b, true))"),
        ("{'a': 1}.exists(k, k == 'a')", "{'a': 1, 'b': [1, 2]}.exists(k, k == 'a')"),
        ("[1.5].exists(n, n > 1.0)", "[1.5, 2.5, 3.5].exists(n, n > 1.0)"),
        (
            "(subject.mfa ? ['a'] : ['b']).exists(a, a == 'x')",
            "(subject.mfa ? ['a'] : ['b', 'c', 'd']).exists(a, a == 'x')",
        ),
        ("resource.tags.all(t, t == 'x')", "resource.tags.all(t, t + t == 'x')"),
        ("has(resource.a) && [1].all(n, n == 1)", "has(resource.a) && [1, 2, 3].all(n, n == 1)"),
    ],
)
def test_more_of_anything_is_more_work(less, more):
    assert 0 < work(less) < work(more) < MAX_WORK


def test_each_doubling_doubles_the_estimate():
    steps = [work("['a']" + ".map(x, x + x)" * n + ".size() == 0") for n in range(3, 10)]
    assert all(later > 1.4 * earlier for earlier, later in pairwise(steps))
    assert steps[-1] > 2**9


def test_what_could_make_too_much_is_refused_at_load():
    with pytest.raises(cel.CelError, match="too much of what it is given"):
        cel.Cel("['a']" + ".map(x, x + x)" * 28 + ".size() == 0")


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"\x12\x00",
        b"\x12\x7f\x22",
        b"\x12\x02\x22\x05",
        b"\x12\x80",
        b"\x12" + b"\xff" * 11,
        b"\x0b",
        b"\x12\x05\x22\x03\x32\x7fa",
    ],
)
def test_a_tree_that_cannot_be_read_is_too_much(odd):
    assert work_of(odd) > MAX_WORK


def test_numbers_of_every_width_are_passed_over():
    constant = b"\x1a\x00"
    tree = b"\x08\x01" + b"\x11" + bytes(8) + b"\x15" + bytes(4) + constant
    checked = b"\x22" + bytes([len(tree)]) + tree
    assert work_of(b"\x12" + bytes([len(checked)]) + checked) == 1
