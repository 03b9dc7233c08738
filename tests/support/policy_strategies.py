"""Hypothesis strategies for policy files (as plain data) and queries, over alphabets small enough to collide."""

import ipaddress
import json
import os

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from naive_policy import EXPRESSIONS

from ext_authz.model import Approval, Auth, Context, Identity, Query, Resource, Risk
from ext_authz.policy.compiler import compile_policies
from ext_authz.policy.schema import load_policies

ROLES = ["ds", "mlops", "ml-admin", "auditor"]
GROUPS = ["red", "blue", "security"]
NAMES = ["sub:alice", "sub:bob", "key:batch", "spiffe://ml/ns/a/sa/x", "dns:host"]
TYPES = ["model", "dataset", "model_card"]
IDS = ["fraud", "fraud-2", "clicks", "ns/a", "ns/*", "*"]
ACTIONS = ["infer", "deploy_model", "read_data", "read_metrics"]
STAGES = ["production", "staging"]
# 2026-03-29 and 2026-10-25 are Berlin's changes of offset; 2026-11-23 is a Monday.
TIMES = [1774659600 + step * 1800 for step in range(100)] + [1792798200 + step * 1800 for step in range(100)]
NOWS = [1795431600, 1795431600 + 40_000, 1795431600 + 86_400 * 3]


def patterns(words):
    words = [word for word in words if not word.endswith("*")]
    starred = sorted({word[:length] + "*" for word in words for length in (0, 3, 5)})
    one = st.sampled_from(words + starred)
    return one | st.lists(one, min_size=1, max_size=3)


names = st.sampled_from([*NAMES, "alice", "bob", "sub:*", "key:*", "spiffe://ml/*", "*", "al*"])
claims = st.dictionaries(
    st.sampled_from(["team", "a.b", "lvl"]), patterns(["x", "y", "1", "true"]), min_size=1, max_size=2
)


def entry(keys):
    """One or two of `keys`, with values."""
    chosen = st.lists(st.sampled_from(sorted(keys)), min_size=1, max_size=2, unique=True)
    return chosen.flatmap(lambda some: st.fixed_dictionaries({key: keys[key] for key in some}))


everybody = st.just({"any": True})
subject_entry = everybody | entry(
    {
        "role": patterns(ROLES),
        "group": patterns(GROUPS),
        "id": names | st.lists(names, min_size=1, max_size=2),
        "org": patterns(["acme", "beta"]),
        "scope": patterns(["read", "write"]),
        "auth": st.sampled_from(["jwt", "anonymous", ["jwt", "mtls"], ["api_key", "anonymous"]]),
        "issuer": patterns(["https://a", "https://b"]),
        "workload": st.sampled_from(["spiffe://ml/*", "*", "dns:host"]),
        "claim": claims,
    }
)
resource_entry = st.just({"type": "*"}) | entry(
    {
        "type": patterns(TYPES),
        "id": patterns(IDS),
        "version": patterns(["1", "2"]),
        "stage": patterns(STAGES),
        "tier": patterns(["1", "true"]),
    }
)

window = st.fixed_dictionaries(
    {
        "from": st.sampled_from(["00:00", "01:30", "02:30", "09:00", "22:00"]),
        "to": st.sampled_from(["02:00", "02:15", "03:00", "17:00", "24:00"]),
    },
    optional={
        "days": st.sampled_from([["mon-fri"], ["sun"], ["sat-mon"], ["mon", "wed"], ["mon-sun"]]),
        "timezone": st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    },
)
condition = st.one_of(
    st.fixed_dictionaries({"ip_range": st.sampled_from(["10.0.0.0/8", ["10.1.0.0/16", "2001:db8::/32"], "0.0.0.0/0"])}),
    st.fixed_dictionaries({"time_window": st.sampled_from(["business_hours", "nights"]) | window}),
    st.just({"mfa_required": True}),
    st.just({"audit_logged": True}),
    st.fixed_dictionaries({"approval": st.sampled_from(GROUPS)}),
    st.fixed_dictionaries({"max_token_age": st.sampled_from(["15m", "11h", "2d"])}),
    st.fixed_dictionaries({"max_risk": st.sampled_from(["low", "medium", "high"])}),
    st.fixed_dictionaries({"cel": st.sampled_from(sorted(EXPRESSIONS))}),
    st.fixed_dictionaries(
        {"max": st.dictionaries(st.sampled_from(["batch", "tokens"]), st.sampled_from([0, 8, 64.5]), min_size=1)}
    ),
)


@st.composite
def policy(draw):
    effect = draw(st.sampled_from([None, None, None, "allow", "allow", "deny"]))
    made = {}
    if effect:
        made["effect"] = effect
    optional = effect == "deny"
    if not optional or draw(st.booleans()):
        made["subjects"] = draw(st.lists(subject_entry, min_size=1, max_size=3))
        if draw(st.integers(0, 4)) == 0:
            made["subjects"].append({"approval": draw(st.sampled_from(GROUPS))})
    if not optional or draw(st.booleans()):
        made["resources"] = draw(st.lists(resource_entry, min_size=1, max_size=3))
    if not optional or draw(st.booleans()):
        made["actions"] = draw(st.just(["*"]) | st.lists(st.sampled_from([*ACTIONS, "read_*"]), min_size=1, max_size=3))
    if draw(st.booleans()):
        made["conditions"] = draw(st.lists(condition, min_size=1, max_size=3))
    asks = [*made.get("subjects", ()), *made.get("conditions", ())]
    if any("approval" in each for each in asks) and draw(st.booleans()):
        made["approvals"] = 2
    if draw(st.integers(0, 4)) == 0:
        made["mode"] = "shadow"
    if draw(st.integers(0, 9)) == 0:
        made["not_before"] = "2026-11-23T12:00:00+00:00"
    if draw(st.integers(0, 9)) == 0:
        made["not_after"] = "2026-11-24T12:00:00+00:00"
    if effect != "deny" and draw(st.integers(0, 3)) == 0:
        made["headers"] = {"x-team": draw(st.sampled_from(["a", "${subject.org}"]))}
        made["ttl"] = draw(st.sampled_from(["30s", "2m"]))
    return made


def number(policies):
    """Give each policy its id."""
    return [{"id": f"p{place}", **each} for place, each in enumerate(policies)]


def drawn(strategy, count):
    """Draw many values once, the same in every run, the simplest first."""
    found = {}

    @settings(max_examples=count, derandomize=True, database=None, phases=[Phase.generate])
    @given(strategy)
    def draw(value):
        found[json.dumps(value, sort_keys=True)] = value

    draw()
    return [found[key] for key in sorted(found, key=lambda text: (len(text), text))]


# `make laws` draws each set from policies drawn beforehand: drawing them took most of its time.
one = st.sampled_from(drawn(policy(), 4000)) if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else policy()
policies = st.integers(0, 8).flatmap(lambda size: st.lists(one, min_size=size, max_size=size)).map(number)
WINDOWS = {"nights": {"days": ["mon-fri"], "from": "22:00", "to": "06:00", "timezone": "Europe/Berlin"}}


def compiled(listed, **options):
    """Compile plain policies the way files are."""
    return compile_policies(document(listed), **options)


def document(listed):
    whole = {"time_windows": WINDOWS, **({"policies": listed} if listed else {})}
    return load_policies({"laws.yaml": json.dumps(whole)})


identity = st.builds(
    lambda name, auth, **rest: Identity(
        id="anonymous:" if auth is Auth.ANONYMOUS else name, name=name.partition(":")[2], auth=auth, **rest
    ),
    name=st.sampled_from(NAMES),
    auth=st.sampled_from(Auth),
    issuer=st.sampled_from(["", "https://a", "https://b"]),
    roles=st.frozensets(st.sampled_from(ROLES), max_size=2),
    groups=st.frozensets(st.sampled_from(GROUPS), max_size=2),
    org=st.sampled_from(["", "acme", "beta"]),
    scopes=st.frozensets(st.sampled_from(["read", "write"]), max_size=2),
    claims=st.sampled_from(
        [{}, {"team": "x"}, {"team": ["x", "y"], "lvl": 1}, {"a": {"b": True}}, {"a.b": "y", "lvl": 1.5}]
    ),
    mfa=st.booleans(),
    issued_at=st.sampled_from([None, NOWS[0], NOWS[0] - 900, NOWS[0] + 20]),
    workload=st.sampled_from(["", "spiffe://ml/ns/a/sa/x", "dns:host"]),
)
resource = st.builds(
    Resource,
    type=st.sampled_from(TYPES),
    id=st.sampled_from(IDS),
    version=st.sampled_from(["", "1", "2"]),
    attributes=st.fixed_dictionaries(
        {},
        optional={
            "stage": st.sampled_from(STAGES),
            "tier": st.sampled_from([1, True, "1", "2"]),
            "version": st.just("2"),
        },
    ),
)
approval = st.builds(
    Approval,
    group=st.sampled_from(GROUPS),
    approver=st.sampled_from(["sub:carol", "sub:dave", "sub:alice", "os:carol", "sub:batch"]),
    expires_at=st.sampled_from([None, NOWS[0], NOWS[1] + 100]),
    policy=st.sampled_from([None, None, "p0", "p1"]),
    subject=st.sampled_from([None, "sub:alice", "sub:bob"]),
    resource=st.sampled_from([None, None, "model/fraud"]),
)
context = st.builds(
    lambda now, **rest: Context(now_ns=now * 10**9, **rest),
    ip=st.sampled_from([None, *map(ipaddress.ip_address, ["10.1.2.3", "8.8.8.8", "::ffff:10.0.0.1", "2001:db8::1"])]),
    time_ns=st.sampled_from(TIMES).map(lambda second: second * 10**9 + 5),
    now=st.sampled_from(NOWS),
    risk=st.none() | st.sampled_from(Risk),
    approvals=st.none() | st.lists(approval, max_size=4).map(tuple),
)
query = st.builds(
    Query,
    subject=identity,
    resource=resource,
    action=st.sampled_from(ACTIONS),
    context=context,
    attributes=st.fixed_dictionaries(
        {}, optional={"batch": st.sampled_from([0, 8, 65, "8", True]), "tokens": st.sampled_from([1, 9])}
    ),
)
