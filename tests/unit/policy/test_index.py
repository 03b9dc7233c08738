"""The index gives few candidates, whatever there are many of."""

import gc
import json
from dataclasses import replace

import pytest
from policy_support import ask, subject

from ext_authz.policy.collector import collector_paused
from ext_authz.policy.compiler import compile_policies
from ext_authz.policy.document import dump, undump
from ext_authz.policy.schema import load_policies


def compiled(policies):
    return compile_policies(load_policies({"p.yaml": json.dumps({"policies": policies})}))


def candidates(policies, query):
    return [compiled_policy.id for compiled_policy in _found(compiled(policies), query)]


def _found(made, query):
    return [made.policies[number] for number in made._index.candidates(query)]


def allow(name, subjects, resources, actions=("infer",)):
    return {"id": name, "subjects": subjects, "resources": resources, "actions": list(actions)}


def test_one_of_many_by_role():
    many = [allow(f"p{n}", [{"role": f"r{n}"}, {"group": f"g{n}"}], [{"type": "model"}]) for n in range(500)]
    assert candidates(many, ask(subject(roles=["r77"], groups=["g3"]))) == ["p3", "p77"]


def test_one_of_many_by_id_where_everybody_may():
    many = [allow(f"p{n}", [{"any": True}], [{"type": "model", "id": f"m{n}"}]) for n in range(500)]
    assert candidates(many, ask(name="m499")) == ["p499"]


def test_one_of_many_by_prefixes_of_several_lengths():
    many = [allow(f"p{n}", [{"any": True}], [{"type": "model", "id": f"{'x' * (n % 7)}{n}/*"}]) for n in range(500)]
    assert candidates(many, ask(name="xx100/a")) == ["p100"]


def test_bit_sets_meet_where_no_axis_alone_leaves_few():
    many = [allow(f"p{n}", [{"role": f"r{n % 30}"}], [{"id": f"m{n // 30}"}], [f"a{n % 31}"]) for n in range(900)]
    found = candidates(many, ask(subject(roles=["r7"]), name="m11", action="a27"))
    assert found == [f"p{n}" for n in (337,)]


def test_nothing_in_common_is_found_without_a_candidate():
    many = [allow(f"p{n}", [{"role": f"r{n % 30}"}], [{"id": f"m{n // 30}"}]) for n in range(900)]
    odd = [allow(f"q{n}", [{"role": "odd"}], [{"id": "odd"}]) for n in range(20)]
    assert candidates(many + odd, ask(subject(roles=["odd"]), name="m3")) == []
    assert candidates(many + odd, ask(subject(roles=["nobody"]), name="m3")) == []


def test_a_deny_on_an_attribute_that_is_unknown_is_a_candidate():
    many = [{"id": f"d{n}", "effect": "deny", "resources": [{"type": "model", "team": f"t{n}"}]} for n in range(20)]
    assert len(candidates(many, ask())) == 20
    assert candidates(many, ask(attributes={"team": "t3"})) == ["d3"]


def test_ten_thousand_policies_leave_as_few_candidates_as_ten():
    def policies(count):
        return [allow(f"p{n}", [{"role": f"r{n}"}], [{"type": "model", "stage": "production"}]) for n in range(count)]

    query = ask(subject(roles=["r5"]), attributes={"stage": "production"})
    for count in (10, 10_000):
        made = compiled(policies(count))
        assert [policy.id for policy in _found(made, query)] == ["p5"]
        assert made.decide(query).policies == ("p5",)


def test_equal_alternatives_are_compiled_once():
    made = compiled([allow(f"p{n}", [{"role": "r"}], [{"type": "model"}]) for n in range(3)])
    assert len({id(policy.actions) for policy in made.policies}) == 1


def test_another_format_is_not_read():
    document = load_policies({"p.yaml": "policies: [{id: p, effect: deny}]"})
    with pytest.raises(ValueError, match="another version"):
        undump({**dump(document), "format": 0})
    data = dump(document)
    data["policies"][0]["conditions"] = [["x", None]]
    with pytest.raises(ValueError, match="unknown condition `x`"):
        undump(data)


def test_every_condition_survives_the_dump():
    text = (
        "policies: [{id: p, effect: deny, conditions: [{ip_range: [10.0.0.0/8, '::1']}, {time_window: business_hours}, "
        "{time_window: {days: [sun], from: '22:00', to: '06:00', timezone: Asia/Tokyo}}, {mfa_required: true}, "
        "{audit_logged: true}, {approval: g}, {max_token_age: 5m}, {max_risk: high}, {max: {a: 1, b: 2.5}}, "
        "{cel: 'subject.mfa'}]}]"
    )
    document = load_policies({"p.yaml": text})
    assert undump(json.loads(json.dumps(dump(document)))) == document
    assert len(document.policies[0].conditions) == 10


def test_a_mark_survives_the_dump():
    document = load_policies({"p.yaml": "policies: [{id: p, effect: deny}]"})
    (policy,) = undump(dump(document)).policies
    assert str(policy.mark) == "p.yaml:1:17"
    bare = replace(document, policies=tuple(replace(each, marks={}) for each in document.policies))
    assert undump(dump(bare)).policies[0].mark is None


def test_the_collector_is_left_as_it_was_found():
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_rare_value_counts_beside_one_of_many():
    many = [allow(f"p{n}", [{"role": "many"}], [{"type": "model"}]) for n in range(300)]
    rare = allow("rare", [{"role": "rare"}], [{"type": "model"}])
    found = candidates([*many, rare], ask(subject(roles=["many", "rare"])))
    assert found == [*(f"p{n}" for n in range(300)), "rare"]
    assert candidates([*many, rare], ask(subject(roles=["rare"]))) == ["rare"]
