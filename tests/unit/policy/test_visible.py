import json
from functools import partial
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_strategies import STAGES, context, identity, number, patterns, resource_entry, subject_entry
from policy_strategies import compiled as compile_plain
from policy_strategies import condition as any_condition
from policy_support import ask, compiled, subject
from visible_support import shows

from ext_authz.documents import load
from ext_authz.mappers.catalog import Catalog, CatalogEntry, read_catalog
from ext_authz.model import Approval, Query, Resource
from ext_authz.policy import visible as module
from ext_authz.policy.visible import MAX_TEXT, MAX_TRIED, NOTHING, SEEING, Visibility

NONE = MappingProxyType({})


def catalog(text="[]"):
    mistakes = []
    entries = read_catalog(load(text, "c.yaml"), mistakes)
    assert not mistakes
    return Catalog(entries)


def listed(policies, known, kind="model"):
    ids = [entry.id for entry in known.entries if entry.type == kind]
    return Visibility(policies, {kind: (ids, partial(known.attributes, kind, route=NONE))})


def visible(text, who=None, *, known="[]", route=NONE, **rest):
    query = ask(who, **rest)
    return listed(compiled(text), catalog(known)).listing("model", route).visible(query.subject, query.context)


def allow(resources, actions="[infer]", more=""):
    return f"{{id: a{abs(hash((resources, actions, more)))}, subjects: [{{any: true}}], resources: [{resources}], actions: {actions}{more}}}"


def deny(resources, more=""):
    return f"{{id: d{abs(hash((resources, more)))}, effect: deny, resources: [{resources}]{more}}}"


def policies(*each):
    return f"policies: [{', '.join(each)}]"


# --- by hand


def test_ids_and_prefixes_that_a_policy_names_are_shown():
    text = policies(allow("{type: model, id: [fraud, 'churn-*']}"))
    assert visible(text).patterns == ("churn-*", "fraud")


def test_whoever_may_use_everything_sees_everything():
    assert visible(policies(allow("{type: model}"))).patterns == ("*",)


def test_nothing_is_said_in_words():
    assert visible(policies(allow("{type: dataset}"))).patterns == (NOTHING,)
    assert visible(
        "policies: [{id: p, subjects: [{role: boss}], resources: [{type: '*'}], actions: ['*']}]"
    ).patterns == (NOTHING,)


def test_a_denied_model_is_taken_out_of_a_prefix():
    text = policies(allow("{type: model}"), deny("{type: model, id: secret}"), deny("{type: model, id: 'hr-*'}"))
    assert visible(text).patterns == ("*", "!hr-*", "!secret")


def test_an_id_allowed_again_below_a_denied_prefix_stays_hidden_because_a_deny_beats_every_allow():
    text = policies(allow("{type: model}"), allow("{type: model, id: hr-public}"), deny("{type: model, id: 'hr-*'}"))
    assert not shows(visible(text).patterns, "hr-public")


def test_the_catalog_and_the_route_say_which_models_have_an_attribute():
    text = policies(allow("{type: model, stage: production}"))
    known = "[{type: model, id: fraud, stage: production}, {type: model, id: 'x-*', stage: production}, {type: model, id: x-lab, stage: lab}]"
    assert visible(text, known=known).patterns == ("fraud", "x-*", "!x-lab")
    assert visible(text, known=known, route=MappingProxyType({"stage": "production"})).patterns == ("*", "!x-lab")


def test_actions_that_do_not_use_a_model_do_not_show_it():
    assert visible(policies(allow("{type: model}", "[delete_model, health, list_models]"))).patterns == (NOTHING,)


def test_a_deny_of_one_action_hides_only_whom_the_other_actions_leave_nothing():
    text = policies(allow("{type: model}", "[infer, generate]"), deny("{type: model, id: a}", ", actions: [infer]"))
    assert visible(text).patterns == ("*",)
    text = policies(allow("{type: model}"), deny("{type: model, id: a}", ", actions: [infer]"))
    assert visible(text).patterns == ("*", "!a")


def test_conditions_are_those_of_now():
    text = policies(allow("{type: model}", more=", conditions: [{time_window: business_hours}]"))
    assert visible(text, at="2026-11-23T12:00:00+00:00").patterns == ("*",)
    assert visible(text, at="2026-11-23T20:00:00+00:00").patterns == (NOTHING,)
    text = policies(allow("{type: model}", more=", conditions: [{ip_range: 10.0.0.0/8}]"))
    assert visible(text, ip="8.8.8.8").patterns == (NOTHING,)


def test_a_shadow_policy_shows_and_hides_nothing():
    assert visible(policies(allow("{type: model}", more=", mode: shadow"))).patterns == (NOTHING,)
    assert visible(policies(allow("{type: model}"), deny("{type: model}", ", mode: shadow"))).patterns == ("*",)


def test_a_limit_on_the_later_request_hides_nothing_but_a_denial_by_one_does():
    text = policies(allow("{type: model}", more=", conditions: [{max: {max_tokens: 1024}}]"))
    assert visible(text).patterns == ("*",)
    text = policies(allow("{type: model}"), deny("{type: model, id: a}", ", conditions: [{max: {max_tokens: 1024}}]"))
    assert visible(text).patterns == ("*", "!a")


def test_an_approval_for_one_model_shows_that_one_where_it_is_named():
    text = policies(allow("{type: model, id: [a, b]}", more=", conditions: [{approval: security}]"))
    one = Approval("security", "sub:boss", resource="model/a")
    assert visible(text, approvals=[one]).patterns == ("a",)
    assert visible(text, approvals=["security"]).patterns == ("a", "b")
    assert visible(text, approvals=None).patterns == (NOTHING,)


def test_an_expression_over_the_id_is_tried_on_ids_and_trusted_for_no_prefix():
    more = """, conditions: [{cel: 'resource.id.startsWith("a")'}]"""
    text = policies(allow("{type: model, id: [a1, b1, 'a-*']}", more=more))
    assert visible(text).patterns == ("a1",)
    text = policies(allow("{type: model}"), deny("{type: model, id: [a1, b1, 'a-*']}", more))
    assert visible(text).patterns == ("*", "!a-*", "!a1")


def test_an_expression_over_the_later_request_shows_nothing_and_as_a_denial_hides_all_it_could_hit():
    more = ", conditions: [{cel: 'request.bytes < 10'}]"
    assert visible(policies(allow("{type: model}", more=more))).patterns == (NOTHING,)
    assert visible(policies(allow("{type: model}"), deny("{type: model, id: a}", more))).patterns == ("*", "!a")


def test_an_expression_may_tell_actions_apart():
    more = """, conditions: [{cel: 'action == "generate"'}]"""
    assert visible(policies(allow("{type: model}", "[infer, generate]", more))).patterns == ("*",)
    assert visible(policies(allow("{type: model}", "[infer, embed]", more))).patterns == (NOTHING,)


def test_expressions_are_tried_a_bounded_number_of_times():
    ids = ", ".join(f"m{number:03}" for number in range(2 * MAX_TRIED))
    more = """, conditions: [{cel: 'resource.id != "x"'}]"""
    found = visible(policies(allow(f"{{type: model, id: [{ids}]}}", more=more))).patterns
    assert len(found) == MAX_TRIED
    hidden = visible(policies(allow("{type: model}"), deny(f"{{type: model, id: [{ids}]}}", more))).patterns
    assert not any(shows(hidden, f"m{number:03}") for number in range(2 * MAX_TRIED))


def test_what_does_not_fit_is_left_out_whole_and_said():
    ids = ", ".join(f"'model-{number:04}'" for number in range(1000))
    found = visible(policies(allow(f"{{type: model, id: [{ids}, a]}}")))
    assert not found.complete
    assert len(found.text) <= MAX_TEXT
    assert shows(found.patterns, "a")
    narrowed = visible(policies(allow("{type: model}"), deny(f"{{type: model, id: [{ids}]}}")))
    assert narrowed.patterns == (NOTHING,), "a prefix whose exceptions do not fit must not be shown without them"
    assert not narrowed.complete


def test_odd_ids_are_spelled_so_that_they_are_read_back():
    ids = ["a,b", "!c", "d e", "ü", "per%cent", '"q"']
    text = policies(allow(f"{{type: model, id: {json.dumps(ids)}}}"))
    found = visible(text)
    assert found.text.isascii()
    assert " " not in found.text
    assert all(shows(found.text.split(","), name) for name in ids)
    assert not any(shows(found.text.split(","), name) for name in ["a", "b", "c", "d", "x", "%C3%BC"])


def test_attributes_unknown_here_hide_what_needs_them_and_let_a_deny_hit():
    assert visible(policies(allow("{type: model, version: '1'}"))).patterns == (NOTHING,)
    text = policies(allow("{type: model}"), deny("{type: model, id: a, owner: hr}"))
    assert visible(text).patterns == ("*", "!a")


def test_a_policy_for_somebody_else_shows_nothing():
    text = "policies: [{id: p, subjects: [{role: ml}], resources: [{type: model}], actions: ['*']}]"
    assert visible(text, subject(roles=["ml"])).patterns == ("*",)
    assert visible(text, subject(roles=["x"])).patterns == (NOTHING,)


# --- against the engine, id by id

IDS = ["fraud", "fraud-2", "fraud-20", "frau", "clicks", "ns/a", "ns/b", "other", "f", "é"]
seeing = st.lists(
    st.sampled_from(["infer", "generate", "read_metadata", "read_*", "deploy_model"]), min_size=1, max_size=3
)
entries = resource_entry | st.fixed_dictionaries({"id": patterns(IDS)}, optional={"type": st.just("model")})


@st.composite
def policy_(draw):
    made = {"resources": draw(st.lists(entries, min_size=1, max_size=3)), "actions": draw(seeing | st.just(["*"]))}
    if draw(st.integers(0, 2)) == 0:
        made["effect"] = "deny"
    else:
        made["subjects"] = draw(st.lists(subject_entry | st.just({"any": True}), min_size=1, max_size=2))
    if draw(st.booleans()):
        made["conditions"] = draw(st.lists(any_condition, min_size=1, max_size=2))
    if draw(st.integers(0, 5)) == 0:
        made["mode"] = "shadow"
    return made


known_of = st.lists(
    st.tuples(st.sampled_from([*IDS, "fr*", "fraud*", "ns/*", "*"]), st.sampled_from(STAGES)),
    max_size=4,
    unique_by=lambda pair: pair[0],
).map(lambda pairs: Catalog([CatalogEntry("model", name, {"stage": stage}, None) for name, stage in pairs]))


@settings(max_examples=max(300, settings().max_examples))
@given(
    st.lists(policy_(), min_size=1, max_size=6).map(number),
    known_of,
    st.sampled_from([NONE, MappingProxyType({"stage": "production", "tier": "1"})]),
    identity,
    context,
)
def test_whatever_is_shown_would_be_allowed_now_for_one_of_the_actions(plain, known, route, who, where):
    made = compile_plain(plain)
    found = listed(made, known).listing("model", route).visible(who, where)
    limited = any("max" in each for one in plain for each in one.get("conditions", ()))
    # What may turn on the one resource is not known of all of them.
    single = any(each.keys() & {"approval", "cel"} for one in plain for each in one.get("conditions", ()))
    for name in IDS:
        resource = Resource("model", name, "", known.attributes("model", name, route))
        allowed = any(
            made.decide(Query(who, resource, action, where, {"batch": 0, "tokens": 0} if limited else {})).reason
            == "allowed"
            for action in SEEING
        )
        if shows(found.patterns, name):
            assert allowed, (name, found)
        elif allowed and not limited and not single:
            pytest.fail(f"{name} is hidden, though it is allowed: {found}")


def test_a_deny_without_resources_hides_everything():
    both = allow("{type: model}", "[infer, embed]")
    assert visible(policies(both, "{id: stop, effect: deny, actions: [infer]}")).patterns == ("*",)
    assert visible(policies(both, "{id: stop, effect: deny}")).patterns == (NOTHING,)


def test_what_was_worked_out_is_kept_for_the_same_route_and_forgotten_when_it_gets_much(monkeypatch):
    monkeypatch.setattr(module, "_REMEMBERED", 1)
    text = """policies:
    - {id: a, subjects: [{role: a}], resources: [{type: model, id: one}], actions: [infer]}
    - {id: b, subjects: [{role: b}], resources: [{type: model, id: two}], actions: [infer]}
    """
    seen = listed(compiled(text), catalog())
    listing = seen.listing("model", NONE)
    assert seen.listing("model", NONE) is listing
    assert seen.listing("model", {"stage": "x"}) is not listing
    first = listing.visible(subject(roles=["a"]), ask().context)
    assert listing.visible(subject(roles=["a"]), ask().context) is first
    assert listing.visible(subject(roles=["b"]), ask().context).patterns == ("two",)
    again = listing.visible(subject(roles=["a"]), ask().context)
    assert again is not first
    assert again == first
