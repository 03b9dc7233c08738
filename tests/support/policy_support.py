"""Short ways to load policies and to ask about them."""

import ipaddress
from datetime import datetime

from ext_authz.documents import DocumentError
from ext_authz.model import Approval, Auth, Context, Identity, Query, Resource, Risk
from ext_authz.policy.compiler import compile_policies
from ext_authz.policy.schema import load_policies

MONDAY_NOON = "2026-11-23T12:00:00+00:00"


def load(text, file="p.yaml"):
    return load_policies({file: text})


def compiled(text, **options):
    return compile_policies(load(text), **options)


def mistakes(text, file="p.yaml"):
    """Return `LINE:COL message` of every mistake."""
    try:
        load(text, file)
    except DocumentError as error:
        return [f"{each.mark.line}:{each.mark.column} {each.message}" for each in error.diagnostics]
    return []


def ns(text):
    return int(datetime.fromisoformat(text).timestamp()) * 10**9


def subject(name="sub:alice", auth=Auth.JWT, **rest):
    sets = {key: frozenset(rest.pop(key)) for key in ("roles", "groups", "scopes") if key in rest}
    return Identity(id=name, name=name.removeprefix("sub:"), auth=auth, **sets, **rest)


def ask(
    who=None,
    kind="model",
    name="fraud",
    action="infer",
    *,
    at=MONDAY_NOON,
    now=None,
    attributes=None,
    version="",
    **rest,
):
    """Make a query; further keywords are the context's (ip as text) or `given` (the request's attributes)."""
    time_ns = at if isinstance(at, int) else ns(at)
    ip = rest.pop("ip", "10.1.2.3")
    approvals = rest.pop("approvals", ())
    if approvals is not None:
        approvals = tuple(
            each if isinstance(each, Approval) else Approval(each, f"sub:boss{n}") for n, each in enumerate(approvals)
        )
    given = rest.pop("given", {})
    context = Context(
        ip=None if ip is None else ipaddress.ip_address(ip),
        time_ns=time_ns,
        now_ns=time_ns if now is None else now if isinstance(now, int) else ns(now),
        risk=rest.pop("risk", Risk.LOW),
        approvals=approvals,
        **rest,
    )
    return Query(who or subject(), Resource(kind, name, version, attributes or {}), action, context, given)


def policy(conditions="", *, name="p", effect="allow", more=""):
    """Return the text of one policy about everything, with `conditions` (YAML flow) on it."""
    lists = "" if effect == "deny" else ', subjects: [{any: true}], resources: [{type: "*"}], actions: ["*"]'
    held = f", conditions: [{conditions}]" if conditions else ""
    return f"policies: [{{id: {name}, effect: {effect}{lists}{held}{more}}}]"


def holds(conditions, query, **options):
    """Whether an allow and a deny with these conditions match: (allow, deny)."""
    allow = compiled(policy(conditions), **options).decide(query).reason == "allowed"
    deny = compiled(policy(conditions, effect="deny"), **options).decide(query).reason == "denied_by_policy"
    return allow, deny
