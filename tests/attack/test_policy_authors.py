"""What a hostile author puts into policy files, and what must not come of it: grants nobody sees, a loader that stalls."""

import pytest
from command_line import ran
from policy_support import ask, compiled, mistakes, subject
from running_service import POLICIES, SCORER, start, write_configuration
from wire_requests import check_request, read_reply

from ext_authz import documents
from ext_authz.documents import DocumentError, load, to_plain
from ext_authz.model import Approval, Reason
from ext_authz.policy.schema import load_policies

ANYBODY = "{id: hidden, subjects: [{any: true}], resources: [{type: '*'}], actions: ['*']}"
ALLOW = f"policies:\n- {ANYBODY[:-1]}, "


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029", "\r"])
def test_no_policy_hides_in_what_every_editor_shows_as_a_comment(separator, tmp_path, capfd):
    hidden = f"{POLICIES}# reviewed by security{separator}- {ANYBODY}\n"
    config = write_configuration(tmp_path, policies=hidden)
    found = ran(capfd, "check", "-c", config)
    assert found.status == 2
    assert f"policies.yaml:{POLICIES.count(chr(10)) + 1}:23: holds U+{ord(separator):04X}" in found.err
    # And what is loaded without it gives that caller nothing, as its author could see.
    running = start(tmp_path / "good")
    try:
        message = check_request("GET", "/v2/models/secret", host="models.internal", principal=SCORER)
        assert not read_reply(running.service.check(message)).allowed
    finally:
        running.close()


@pytest.mark.parametrize("turn", ["\u202a", "\u202e", "\u2066", "\u2069"])
def test_no_direction_of_writing_turns_a_line_round(turn):
    assert [each.partition(" ")[2][:12] for each in mistakes(f"{POLICIES}# {turn} x\n")] == [f"holds U+{ord(turn):04X}"]


def test_line_ends_of_windows_are_line_ends():
    assert len(load_policies({"p.yaml": POLICIES.replace("\n", "\r\n")}).policies) == 3


def test_a_file_of_one_line_with_many_mistakes_is_told_in_a_bounded_report():
    with pytest.raises(DocumentError) as error:
        load_policies({"p.yaml": "{policies: [" + ",".join(["{i: a}"] * 5000) + "]}"})
    assert len(error.value.diagnostics) == documents.MAX_REPORTED + 1
    assert error.value.diagnostics[-1].message == "and 15000 more mistakes from here on"
    assert len(str(error.value)) < 500 * documents.MAX_REPORTED


def test_the_caret_stands_under_the_mistake_in_a_long_line_too():
    text = (
        "{policies: ["
        + "{id: a, effect: deny}, " * 50
        + "{id: b, effect: maybe}"
        + ", {id: c, effect: deny}" * 50
        + "]}"
    )
    with pytest.raises(DocumentError) as error:
        load_policies({"p.yaml": text})
    told = next(each for each in error.value.diagnostics if "maybe" in each.message).render({"p.yaml": text})
    _, line, caret = told.split("\n")
    assert line[caret.index("^") :].startswith("maybe")
    assert len(line) < 200


def test_suggestions_end_where_nobody_reads_them_any_more():
    windows = "".join(f"  w{n}: {{from: '09:00', to: '10:00', timezone: Europe/Berlim}}\n" for n in range(3000))
    found = mistakes(f"time_windows:\n{windows}")
    # Some 8 ms for each suggestion among all zones: 24 s before there was an end of it.
    assert sum("did you mean `Europe/Berlin`?" in each for each in found) == 100
    assert (len(found), found[-1].endswith("unknown time zone `Europe/Berlim`")) == (3000, True)


def test_aliases_in_aliases_are_as_deep_as_what_they_stand_for():
    levels = "".join(f"a{n}: &a{n} {'[' * 20}*a{n - 1}{']' * 20}\n" for n in range(1, 100))
    with pytest.raises(DocumentError, match="nested deeper than 64"):
        load(f"a0: &a0 x\n{levels}", "p.yaml")
    allowed = load("a: &a [[x]]\nb: &b [*a]\nc: [*b, *a]\n", "p.yaml")
    assert to_plain(allowed) == {"a": [["x"]], "b": [[["x"]]], "c": [[[["x"]]], [["x"]]]}
    assert to_plain(load(f"a: &a {'[' * 60}{']' * 60}\nb: x\nc: {'[' * 60}{']' * 60}\n", "p.yaml"))


ESCAPES = {
    "in a first line that is no YAML": "# \x1b[2J\npolicies: []\n",
    "in a key": ALLOW + '"\\e[2J": 1}\n',
    "in a key twice": ALLOW + '"\\e[2J": 1, "\\e[2J": 2}\n',
    "in a window's name": "time_windows: {'\x9f': {from: '1'}}\n",
    "a line of its own": ALLOW + '"x\\nother.yaml:1:1: all is well": 1}\n',
}


@pytest.mark.parametrize("text", ESCAPES.values(), ids=ESCAPES)
def test_no_mistake_acts_on_the_terminal_that_shows_it(text, tmp_path, capfd):
    found = ran(capfd, "check", "-c", write_configuration(tmp_path, policies=text))
    assert found.status == 2
    assert all(line.isprintable() for line in found.err.split("\n"))
    assert not any(line.startswith("other.yaml") for line in found.err.split("\n"))


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59Z", "2600-01-01T00:00:00Z", "0001-01-01T00:00:00Z"])
@pytest.mark.parametrize("key", ["not_before", "not_after"])
def test_a_time_that_no_64_bits_hold_is_a_mistake_and_no_crash(key, moment):
    assert mistakes(f"{ALLOW}{key}: '{moment}'}}\n") == [
        f"2:{len(ANYBODY) + len(key) + 6} `{key}` must be from 1678 to 2261; what has no end is left out"
    ]


@pytest.mark.parametrize("moment", ["2261-12-31T23:59:59.999999999Z", "1678-01-01T00:00:00Z"])
def test_the_first_and_the_last_time_are_loaded_and_have_a_digest(moment):
    assert compiled(f"{ALLOW}not_after: '{moment}'}}\n").revision


BOMBS = {
    "doubled text": "['aaaaaaaa']" + ".map(x, x + x)" * 28 + ".size() == 0",
    "doubled lists": "[[0, 0]]" + ".map(x, x + x)" * 22 + ".size() == 0",
    "lists of lists": "[[0]]" + ".map(x, [x, x])" * 22 + ".size() == 0",
    "times ten": "[request.path]" + ".map(x, x+x+x+x+x+x+x+x+x+x)" * 8 + ".size() == 0",
    "inner variables": "[subject.id].all(a, [a+a+a+a].all(b, [b+b+b+b].all(c, [c+c+c+c].all(d, [d+d+d+d].all(e, "
    "[e+e+e+e].all(f, [f+f+f+f].all(g, [g+g+g+g].all(h, h == ''))))))))",
    "maps": "[{'a': 1}]" + ".map(x, {'a': x, 'b': x})" * 20 + ".size() == 0",
}


@pytest.mark.parametrize("expression", BOMBS.values(), ids=BOMBS)
def test_no_expression_doubles_a_value_until_the_memory_is_gone(expression):
    pytest.importorskip("cel_expr_python")
    assert [each.partition("`cel`: ")[2] for each in mistakes(f'{ALLOW}conditions: [{{cel: "{expression}"}}]}}\n')] == [
        "it could make too much of what it is given: fewer lists in lists, and less put together"
    ]


@pytest.mark.parametrize(
    "expression",
    [
        "subject.groups.exists(g, subject.roles.exists(r, g == 'team-' + r))",
        "[" + ", ".join(f"'m{n}'" for n in range(150)) + "].exists(m, resource.id == m + '-prod')",
        "[1, 2].map(n, n * 2).filter(n, n > 2).size() == 1 && {'a': 1}.exists(k, k == 'a')",
        "['a', 'b'].exists_one(a, ['c', 'd'].exists(c, [a + c].exists(both, subject.name == both)))",
    ],
)
def test_what_people_write_is_far_from_that_limit(expression):
    pytest.importorskip("cel_expr_python")
    assert mistakes(f'{ALLOW}conditions: [{{cel: "{expression}"}}]}}\n') == []


TWO = f"{ALLOW}approvals: 2, conditions: [{{approval: board}}]}}\n"


@pytest.mark.parametrize(
    "second", ["sub:Boss", "sub:BOSS", "key:boss", "sub:\uff42\uff4f\uff53\uff53", "sub:bo\u017f\u017f"]
)
def test_one_person_spelled_twice_is_one_approver(second):
    approvals = (Approval("board", "sub:boss"), Approval("board", second))
    assert compiled(TWO).decide(ask(approvals=approvals)).reason is Reason.CONDITIONS_NOT_MET


def test_nobody_approves_for_another_spelling_of_their_own_name():
    one = TWO.replace("approvals: 2, ", "")
    own = (Approval("board", "sub:ALICE@ml.example"),)
    asked = ask(subject("sub:alice@ml.example"), approvals=own)
    assert compiled(one).decide(asked).reason is Reason.CONDITIONS_NOT_MET
    assert compiled(one).decide(ask(approvals=own)).reason is Reason.ALLOWED


def test_many_files_have_no_more_nodes_together_than_one(monkeypatch):
    monkeypatch.setattr(documents, "MAX_NODES", 100)
    one = f"policies: [{{id: %s, effect: deny, actions: [{', '.join(['a'] * 30)}]}}]\n"
    assert load_policies({"1.yaml": one % "a", "2.yaml": one % "b"}).policies
    with pytest.raises(DocumentError, match=r"3.yaml:.*more than 100 nodes"):
        load_policies({f"{n}.yaml": one % f"p{n}" for n in range(1, 4)})
