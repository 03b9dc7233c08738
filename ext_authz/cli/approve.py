"""`approve`: one person's approval of one policy for one subject, for a while.

Law: the approver is who a verified token with MFA says and whom the policies let approve, or honestly only
`os:USER`; nobody approves for themselves; an approval is bound to the policy's digest.
"""

# ruff: noqa: FBT002, PLR0917  a command's parameters are its options

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ext_authz.cli.changes import SECOND, open_store, operator, record, say_kind, subject_of
from ext_authz.cli.frame import DEFAULT_CONFIG, DOES_NOT_HOLD, CommandError, ConfigOption, seconds_of
from ext_authz.documents import did_you_mean, printable

if TYPE_CHECKING:
    from ext_authz.check import Snapshot
    from ext_authz.config import Inputs
    from ext_authz.model import Identity
    from ext_authz.state import State
    from ext_authz.state.changes import Change
    from ext_authz.tools.approving import Ruling

MAX_TOKEN_BYTES: Final = 64 * 1024


def approve(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="The policy's id.")],
    group: Annotated[str, typer.Option("--group", metavar="G", help="The group that the policy wants.")],
    subject: Annotated[str, typer.Option("--for", metavar="SUBJECT", help="Typed name; a bare one means `sub:`.")],
    config: ConfigOption = DEFAULT_CONFIG,
    resource: Annotated[str, typer.Option("--resource", metavar="TYPE/ID", help="For this resource only.")] = "",
    ttl: Annotated[str, typer.Option("--ttl", metavar="TIME", help="How long it holds: `2h`.")] = "",
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is recorded.")] = "",
    token: Annotated[
        str, typer.Option("--as", metavar="FILE", help="The approver's JWT (`-` for stdin), verified as a caller's is.")
    ] = "",
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take back what was recorded for these.")] = False,
) -> None:
    """Record an approval that a policy's `approval: GROUP` asks for.

    Example: `ext-authz approve deploy --group security_team --for alice --ttl 2h --reason CHG-7 --as token.jwt`
    """
    from ext_authz import wiring
    from ext_authz.policy.matching import person
    from ext_authz.state.changes import Change, Kind
    from ext_authz.tools.approving import Wish, is_required, rule

    if not withdraw and not (ttl and reason):
        raise CommandError("an approval needs `--ttl` and `--reason`")
    inputs, snapshot = wiring.load(config, os.environ)
    group = group.removeprefix("group:")
    now_ns = time.time_ns()
    target = subject_of(subject)
    say_kind(config, subject)
    if target.startswith("group:"):
        raise CommandError(f"--for: `{subject}` is a group; an approval is for one subject")
    seconds = 0 if withdraw else seconds_of(ttl, "--ttl")
    asks_policies = not withdraw and is_required(snapshot, always=inputs.settings.state.approvers == "policy")
    approver, identity = _approver(inputs, snapshot, token, group, now_ns, asks_policies=asks_policies)
    if not withdraw and person(approver) == person(target):
        raise CommandError("nobody approves for themselves")
    change = Change(
        kind=Kind.APPROVAL,
        by=approver,
        at_ns=now_ns,
        reason=reason,
        withdraw=withdraw,
        subject=target,
        expires_at=None if withdraw else now_ns // SECOND + seconds,
        policy=policy,
        policy_digest="" if withdraw else _digest(snapshot, policy, group, approver),
        group=group,
        resource=resource,
    )
    problem = change.problem()
    if problem is not None:
        raise CommandError(problem)
    if asks_policies and identity is not None:
        wish = Wish(policy, group, target, resource, seconds)
        change = _ruled(config, change, rule(snapshot, identity, wish, _state(inputs, now_ns), now_ns))
    record(config, change)


def _ruled(config: Path, change: "Change", ruling: "Ruling") -> "Change":
    """Return the approval with the decision on its approver; a refusal is recorded and raised."""
    from ext_authz.state.changes import Kind

    change = replace(
        change,
        decision_id=ruling.decision_id,
        decision=ruling.reason.value,
        decided_by=ruling.policy_id,
        policy_revision=ruling.policy_revision,
    )
    if ruling.allowed:
        return change
    with open_store(config) as store:
        store.append(replace(change, kind=Kind.REFUSAL, expires_at=None, policy_digest=""))
    wanted = f"; it would be allowed {ruling.would_allow_if[0]}" if ruling.would_allow_if else ""
    raise CommandError(
        f"no policy lets {printable(change.by)} approve `{change.policy}` ({ruling.reason.value}, decision "
        f"{ruling.decision_id}){wanted}",
        status=DOES_NOT_HOLD,
    )


def _digest(snapshot: "Snapshot", name: str, group: str, approver: str) -> str:
    """Return the digest of the policy that is to be approved, which must ask for this approval."""
    from ext_authz.policy.conditions import Approved

    known = {each.id: each for each in snapshot.policies.policies}
    if name not in known:
        raise CommandError(f"no policy is called `{name}`{did_you_mean(name, known)}")
    found = known[name]
    groups = [each.group for each in found.conditions if isinstance(each, Approved)]
    if group not in groups:
        wanted = ", ".join(f"`{each}`" for each in groups) or "none"
        raise CommandError(f"policy `{name}` asks for no approval of `{group}` (it asks for: {wanted})")
    if found.approvals > 1 and approver.startswith("os:"):
        raise CommandError(
            f"policy `{name}` needs {found.approvals} verified approvers: give the approver's token with `--as`"
        )
    return found.digest


def _approver(
    inputs: "Inputs", snapshot: "Snapshot", token: str, group: str, now_ns: int, *, asks_policies: bool
) -> "tuple[str, Identity | None]":
    """Return who approves, and what is verified of him (None: nothing)."""
    if not token:
        if asks_policies:
            raise CommandError("policies decide who approves here: give the approver's token with `--as`")
        if inputs.settings.state.verified_approvers:
            raise CommandError("`state.verified_approvers` is set: give the approver's token with `--as`")
        return operator(), None
    identity = _verified(inputs, snapshot, _read_token(token), now_ns)
    name = printable(identity.id)
    if not identity.mfa:
        raise CommandError(f"the token of {name} does not say that more than one factor was used (`mfa`)")
    if group not in identity.groups and group not in identity.roles:
        raise CommandError(f"{name} does not hold `{group}` as group or role")
    return identity.id, identity


def _verified(inputs: "Inputs", snapshot: "Snapshot", token: str, now_ns: int) -> "Identity":
    """Return who the token says, by the very authenticators of the server."""
    from ext_authz.model import Refusal

    state = _state(inputs, now_ns)
    identity = snapshot.authenticators.authenticate_token(token, state, now_ns)
    if isinstance(identity, Refusal):
        raise CommandError(f"--as: {identity.reason.value}: {printable(identity.detail)}")
    if (quarantine := state.quarantine_of(identity.id, now_ns)) is not None:
        raise CommandError(f"--as: {printable(identity.id)} is {printable(quarantine)}")
    return identity


def _state(inputs: "Inputs", now_ns: int) -> "State":
    """Return the state as recorded: a revoked or quarantined token approves nothing."""
    from ext_authz.state import StoreError
    from ext_authz.tools.recorded import recorded_state

    try:
        return recorded_state(inputs.settings.run_dir, now_ns)
    except StoreError as error:
        raise CommandError(str(error)) from None


def _read_token(name: str) -> str:
    try:
        if name == "-":
            raw = sys.stdin.buffer.read(MAX_TOKEN_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                raw = file.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise CommandError(f"cannot read `{name}`: {(error.strerror or str(error)).lower()}") from None
    text = raw.decode("ascii", "replace").strip()
    if not text or len(raw) > MAX_TOKEN_BYTES or len(text.split()) != 1:
        raise CommandError(f"{'stdin' if name == '-' else name}: holds no token")
    return text
