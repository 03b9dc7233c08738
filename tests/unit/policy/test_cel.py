"""The `cel` condition: checked at load, and never true where it cannot be evaluated."""

import importlib

import pytest
from policy_support import ask, compiled, holds, mistakes, policy, subject

from ext_authz.model import Auth
from ext_authz.policy import cel
from ext_authz.policy.explain import explain

pytest.importorskip("cel_expr_python")

YES, NO, UNKNOWN = (True, True), (False, False), (False, True)


def quoted(expression):
    return "{cel: '" + expression.replace("'", "''") + "'}"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('subject.id == "sub:alice"', YES),
        ('subject . id == "sub:alice"', YES),
        ('subject.name == "bob"', NO),
        ('subject.auth == "jwt" && subject.mfa', YES),
        ('"ds" in subject.roles', YES),
        ('subject.roles.exists(role, role.startsWith("ml"))', NO),
        ('subject.claims.team == "x"', YES),
        ('subject.claims["team"] == "x"', YES),
        ("subject.claims.deep.level > 2", YES),
        ('subject.claims.nothing == "x"', UNKNOWN),
        ("has(subject.claims.nothing)", NO),
        ("subject.claims.admin", YES),
        ("subject.claims.team", UNKNOWN),
        ('subject.token_age < duration("15m")', YES),
        ('resource.type == "model" && resource.id == "fraud"', YES),
        ('resource.stage == "production"', YES),
        ('resource.stage != "production"', NO),
        ('resource.owner == "x"', UNKNOWN),
        ('resource.version == "1"', UNKNOWN),
        ('action in ["infer", "explain"]', YES),
        ("request.batch_size <= 64", YES),
        ("request.max_tokens <= 64", UNKNOWN),
        ('request.method == "POST" && request.bytes < 100', YES),
        ('context.ip == "10.1.2.3"', YES),
        ('context.risk == "low"', YES),
        ('context.time < timestamp("2027-01-01T00:00:00Z")', YES),
        ('context.time.getDayOfWeek("Europe/Berlin") == 1', YES),
        ("1 / 0 == 1", UNKNOWN),
        ("subject.claims.huge == 1", UNKNOWN),
        ('action.matches("(a+)+$")', NO),
        # An attribute's name may begin as a variable's does.
        ("resource.idle && resource.typed == 'x' && resource.version_of == 'y'", YES),
        ('request.bytes_out > 2 && request.path_count > 2 && action == "infer"', YES),
        ("resource.idle && resource.id == 'fraud' && request.bytes_out == 3", YES),
        ("true", YES),
        ("false", NO),
    ],
)
def test_expressions(expression, expected):
    claims = {"team": "x", "deep": {"level": 3}, "admin": True, "huge": 10**30}
    who = subject(roles=["ds"], claims=claims, mfa=True, issued_at=1795435000)
    known = {"stage": "production", "idle": True, "typed": "x", "version_of": "y"}
    given = {"batch_size": 8, "bytes_out": 3, "path_count": 3}
    query = ask(who, attributes=known, given=given, method="POST", bytes=9)
    assert holds(quoted(expression), query) == expected


@pytest.mark.parametrize(
    ("expression", "changed"),
    [
        ('context.ip == "10.1.2.3"', {"ip": None}),
        ('context.risk == "low"', {"risk": None}),
        ('subject.token_age < duration("15m")', {}),
        ('resource.id != "secret"', {"name": "*"}),
        ('resource.id == "secret"', {"name": "*"}),
    ],
)
def test_what_is_not_known_cannot_be_evaluated(expression, changed):
    assert holds(quoted(expression), ask(subject("key:b", Auth.API_KEY), **changed)) == UNKNOWN


@pytest.mark.parametrize(("asked", "expected"), [("2", YES), ("", UNKNOWN)])
def test_a_version_that_only_the_catalog_gives_is_a_version_to_an_expression_too(asked, expected):
    attributes = {} if not asked else {"version": 2}
    assert holds(quoted('resource.version == "2"'), ask(attributes=attributes)) == expected
    assert holds(quoted('resource.version == "3"'), ask(version="3", attributes=attributes)) == YES


def test_a_text_that_utf8_cannot_hold_is_no_crash():
    assert holds(quoted('subject.org == "x"'), ask(subject(org="\ud800"))) == UNKNOWN


def test_a_walk_over_everything_twice_is_cut_off():
    big = subject(claims={"l": list(range(2000))})
    assert holds(quoted("subject.claims.l.all(a, subject.claims.l.all(b, a + b >= 0))"), ask(big)) == UNKNOWN


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("subject.rolles == 1", "`cel`: unknown name `subject.rolles`, did you mean `subject.roles`? (at character 8)"),
        ("action == 1", "`cel`: `==` does not take string and int (at character 8)"),
        ("action", "`cel`: it yields string, not true or false"),
        ("subject", "`cel`: unknown name `subject`, only what is in it: `subject.id` (at character 1)"),
        (
            "context.approvals == 1",
            "`cel`: unknown name `context.approvals`, did you mean `context.risk`? (at character 8)",
        ),
        ("actoin == 'x'", "`cel`: unknown name `actoin`, did you mean `action`? (at character 1)"),
        ("size(1) == 1", "`cel`: `size` does not take int (at character 5)"),
        ("subject.id.matches()", "`cel`: `matches` does not take these arguments (at character 19)"),
        ("!(1 < 'a')", "`cel`: `<` does not take int and string (at character 5)"),
        ("subject.mfa ? 1 : true", "`cel`: `? :` does not take bool and int and bool (at character 13)"),
        ("!1 == 1", "`cel`: `!` does not take int (at character 1)"),
        ("action = 'x'", "`cel`: `=` has no meaning here: equality is `==` (at character 8)"),
        ("true or false", "`cel`: `or` has no meaning here: write `||` (at character 6)"),
        ("true true", "`cel`: syntax error: extraneous input 'true' (at character 6)"),
        (
            "subject.claims.exists(c, true)",
            '`cel`: `subject.claims` must be followed by the claim: `subject.claims.team` or `subject.claims["team"]`',
        ),
    ],
)
def test_a_wrong_expression_is_a_mistake_at_load(expression, message):
    assert mistakes(policy(quoted(expression))) == [
        f"1:{policy(quoted(expression)).index('cel: ') + 6} {message}",
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[a]", "`cel` must be an expression"),
        ("''", "`cel` must be an expression"),
        ("'" + "!" * 2048 + "true'", "`cel` is longer than 2048 characters"),
        ("'" + "(" * 200 + "true" + ")" * 200 + "'", "`cel`: nested deeper than 32 levels"),
    ],
)
def test_what_is_no_expression_is_a_mistake(value, message):
    (found,) = mistakes(policy(f"{{cel: {value}}}"))
    assert message in found


def test_syntax_errors_say_where():
    (found,) = mistakes(policy('{cel: "action ==\\n  "}'))
    assert found.endswith(" `cel`: the expression ends where more is wanted (at character 10)")


def test_the_claims_that_an_expression_reads_are_known():
    text = policy(
        quoted('subject.claims.team == "x" || subject.claims [ "nda" ] == true || subject.claims.a.b in ["y"]')
    )
    assert compiled(text).claims_read == {"team", "nda", "a"}


def test_without_the_library_a_policy_that_uses_it_is_a_mistake(monkeypatch):
    def missing(name):
        raise ImportError(name)

    cel._environment.cache_clear()
    monkeypatch.setattr(importlib, "import_module", missing)
    (found,) = mistakes(policy("{cel: 'true'}"))
    assert found.endswith("`cel`: needs the extra `cel`: install `ext-authz[cel]`")
    assert mistakes(policy("{mfa_required: true}")) == []
    cel._environment.cache_clear()


def test_the_trace_says_what_the_expression_came_to_and_promises_nothing():
    def explained(expression, effect="allow"):
        found = explain(compiled(policy(quoted(expression), effect=effect)), ask())
        assert found.would_allow_if == ()
        return found.trace[0].detail

    assert explained('action == "x"') == '`action == "x"` is false'
    assert explained("resource.a == 1").startswith("`resource.a == 1` cannot be evaluated: NOT_FOUND")
    assert explained("resource.a == 1", "deny").startswith(
        "deny, because it cannot be ruled out: `resource.a == 1` cannot"
    )


def test_an_expression_made_by_hand_is_bounded_too():
    with pytest.raises(cel.CelError, match="longer than 2048 characters"):
        cel.Cel("true" + " " * 2048)


def test_only_the_variables_that_an_expression_names_are_bound():
    made = cel.Cel('resource.type == "model" && request.batch_size < 3')
    assert {name for name, _ in made._bindings} == {"resource.type", "request"}
