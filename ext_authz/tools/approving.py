"""Whether somebody may approve a policy, asked of the loaded policies themselves (action `approve`, type `policy`).

Law: it can only refuse more than the fixed rules do (a verified token with MFA, the group, nobody for himself);
what cannot be known about the approver makes an allow not match. Non-goal: recording.
"""

import secrets
from dataclasses import dataclass
from typing import Final

from ext_authz.check import Snapshot
from ext_authz.model import AttributeValue, Context, Identity, Query, Reason, Resource
from ext_authz.policy.explain import explain
from ext_authz.policy.matching import ANYTHING, Values
from ext_authz.state import State

ACTION: Final = "approve"
TYPE: Final = "policy"
ATTRIBUTES: Final = frozenset({"group", "subject", "resource_type", "resource_id"})


@dataclass(frozen=True, slots=True)
class Wish:
    """An approval that is to be recorded. `resource` is `TYPE/ID` or ""; `ttl` is seconds."""

    policy: str
    group: str
    subject: str
    resource: str
    ttl: int


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the policies said of one approver and one wish, under a decision id of its own."""

    decision_id: str
    reason: Reason
    policy_id: str
    policy_revision: str
    would_allow_if: tuple[str, ...]

    @property
    def allowed(self) -> bool:
        """Whether the approval may be recorded."""
        return self.reason is Reason.ALLOWED


def is_required(snapshot: Snapshot, *, always: bool) -> bool:
    """Whether policies decide who approves: `state.approvers: policy`, or an enforced policy names the action.

    `approve*` names it too. A lone `*` among actions does not: nobody who wrote that thought of approvals.
    """
    enforced = (each.source.actions or () for each in snapshot.policies.policies if not each.shadow)
    return always or any(Values(set(actions) - {ANYTHING}).accepts(ACTION) for actions in enforced)


def rule(snapshot: Snapshot, approver: Identity, wish: Wish, state: State, now_ns: int) -> Ruling:
    """Decide as `check` would; `now_ns` is this machine's clock in Unix nanoseconds. An address is not known."""
    attributes: dict[str, AttributeValue] = {"group": wish.group, "subject": wish.subject}
    kind, slash, name = wish.resource.partition("/")
    if slash:
        attributes |= {"resource_type": kind, "resource_id": name}
    catalog = snapshot.routes.catalog
    # What is asked wins over the catalog: nobody may say beforehand for whom an approval is.
    known = {**catalog.attributes(TYPE, wish.policy, {}), **attributes}
    context = Context(
        ip=None,
        time_ns=now_ns,
        now_ns=now_ns,
        risk=state.risk_of(approver.id, now_ns),
        approvals=state.approvals_for(approver.id, now_ns),
    )
    query = Query(approver, Resource(TYPE, wish.policy, attributes=known), ACTION, context, {"ttl": wish.ttl})
    explained = explain(snapshot.policies, query)
    verdict = explained.verdict
    return Ruling(
        secrets.token_hex(16),
        verdict.reason,
        verdict.policy.id if verdict.policy is not None else "",
        snapshot.revision,
        explained.would_allow_if,
    )
