"""The calls of the demo, each with the answer, reason and policy that it must get.

Law: what is expected stands beside what is done, and nowhere else.
Non-goal: running them (run.py) or printing them (report.py).
"""

import datetime as dt
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ext_authz.demo.clients import LAKE_HOST, MODELS_HOST, TLS_REFUSED, Answer, Clients, inference
from ext_authz.demo.files import BALANCER, Files, Issuer

INSIDE: Final = "10.1.2.3"
OUTSIDE: Final = "198.51.100.7"
SUNDAY: Final = dt.datetime(2026, 11, 22, 3, 0, tzinfo=dt.UTC)
MONDAY: Final = dt.datetime(2026, 11, 23, 10, 0, tzinfo=dt.UTC)
ENVOY: Final = "envoy"
"""In place of a reason: Envoy refused before the sidecar was asked."""
DEPLOYMENT: Final = "production_model_deployment"
TRAINING: Final = "data_scientist_training"
_CLI_SECONDS: Final = 60
_STATE_SECONDS: Final = 1.0
"""Changes of state are live in every worker within this time (CONTRACT section 1)."""


class CommandFailedError(Exception):
    """A command of ours ended as it should not."""


@dataclass(frozen=True, slots=True)
class World:
    """What the calls are made from."""

    files: Files
    clients: Clients
    api_key: str

    def bearer(self, subject: str, *roles: str, **options: bool | str) -> dict[str, str]:
        """Return an Authorization header with a fresh token."""
        mfa, org = bool(options.get("mfa")), str(options.get("org", "ml-example"))
        return {"authorization": f"Bearer {self.files.issuer.token(subject, roles, mfa=mfa, org=org)}"}


@dataclass(frozen=True, slots=True)
class Call:
    """One row: who does what, how, and what must come of it. `before` runs first; `proof` names what is still wrong."""

    who: str
    what: str
    make: Callable[[World], Answer]
    answer: str
    reason: str
    policy: str = ""
    before: Callable[[World], None] | None = None
    proof: Callable[[Answer], str] | None = None
    checked: bool = True


def cli(arguments: Sequence[str], *, statuses: Sequence[int] = (0,)) -> str:
    """Run `ext-authz` and return its output. Raises CommandFailedError on another exit status."""
    done = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-m", "ext_authz", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=_CLI_SECONDS,
        check=False,
    )
    if done.returncode not in statuses:
        raise CommandFailedError(
            f"ext-authz {arguments[0]} ended with {done.returncode}:\n{done.stderr or done.stdout}"
        )
    return done.stdout


def approve(world: World) -> None:
    """Record the security team's approval, and give every worker its second to see it."""
    arguments = ["approve", DEPLOYMENT, "--group", "security_team", "--for", "sub:maria", "--ttl", "2h"]
    cli([*arguments, "--reason", "release 7 was reviewed", "-c", str(world.files.config)])
    time.sleep(_STATE_SECONDS)


def _alice(world: World, target: str, forwarded: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Ask the data lake as alice, through a load balancer that says where she is."""
    sent = world.bearer("alice", "data_scientist") | {"x-forwarded-for": forwarded} | dict(headers or {})
    return world.clients.http("GET", LAKE_HOST, target, headers=sent, source=BALANCER)


def _score(world: World, headers: Mapping[str, str], **options: str | bool) -> Answer:
    return world.clients.http(
        "POST",
        MODELS_HOST,
        "/v2/models/fraud/infer",
        headers=headers,
        body=inference(),
        http2=bool(options.get("http2")),
        caller=str(options.get("caller", "notebook")),
        listener=str(options.get("listener", "edge")),
    )


def _expired(world: World) -> Answer:
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(hours=2)
    token = world.files.issuer.token("alice", ["data_scientist"], issued=long_ago)
    return _score(world, {"authorization": f"Bearer {token}"})


def _forged(world: World) -> Answer:
    token = Issuer().token("alice", ["data_scientist", "mlops_engineer"], mfa=True)
    return _score(world, {"authorization": f"Bearer {token}"})


def _saw_alice(answer: Answer) -> str:
    """Say what is wrong with the headers that reached the data lake."""
    seen: dict[str, list[str]] = {}
    for name, value in answer.received:
        seen.setdefault(name, []).append(value)
    wanted = {
        "x-authz-subject": ["alice"],
        "x-authz-roles": ["data_scientist"],
        "x-authz-admin": None,
        "authorization": None,
    }
    wrong = [f"{name}: {seen.get(name)}" for name, value in wanted.items() if seen.get(name) != value]
    return f"the upstream received {', '.join(wrong)}" if wrong else ""


def _explain(config: str, at: dt.datetime) -> Callable[[World], Answer]:
    def run(world: World) -> Answer:
        token = world.files.issuer.token("alice", ["data_scientist"], issued=at - dt.timedelta(minutes=1))
        path = world.files.directory / f"request-{at:%A}.json".lower()
        path.write_text(json.dumps(_check_request(token), indent=2), encoding="utf-8")
        file = str(world.files.directory / config)
        started = time.perf_counter()
        output = cli(["explain", str(path), "--at", at.isoformat(), "--json", "-c", file], statuses=(0, 1))
        found = json.loads(output)
        taken = (time.perf_counter() - started) * 1000
        return Answer(found["decision"], taken, output, reason=found["reason"], policy=found["policy_id"] or "")

    return run


def _check_request(token: str) -> dict[str, object]:
    address = {"socketAddress": {"address": BALANCER, "portValue": 40000}}
    headers = {"authorization": f"Bearer {token}", "x-forwarded-for": f"{INSIDE},{BALANCER}"}
    http = {
        "method": "GET",
        "host": LAKE_HOST,
        "path": "/datasets/clicks/rows",
        "scheme": "https",
        "protocol": "HTTP/2",
    }
    return {"attributes": {"source": {"address": address}, "request": {"http": {**http, "headers": headers}}}}


CHECKOUT: Final = "checkout (certificate)"
ALICE: Final = "alice (token)"
MARIA: Final = "maria (token)"
NOBODY: Final = "nobody"

CALLS: Final[tuple[Call, ...]] = (
    Call(
        CHECKOUT,
        "score with fraud, REST",
        lambda w: w.clients.triton_http("fraud", "checkout"),
        "200",
        "allowed",
        "fraud_scoring_by_checkout",
    ),
    Call(
        CHECKOUT,
        "score with fraud, gRPC",
        lambda w: w.clients.triton_grpc("fraud", "checkout"),
        "OK",
        "allowed",
        "fraud_scoring_by_checkout",
    ),
    Call(
        ALICE,
        "score with fraud, HTTP/2",
        lambda w: _score(w, w.bearer("alice", "data_scientist"), http2=True),
        "200",
        "allowed",
        "fraud_scoring_by_people",
    ),
    Call(
        "batch-7 (API key)",
        "score with fraud",
        lambda w: _score(w, {"x-api-key": w.api_key}),
        "200",
        "allowed",
        "fraud_scoring_by_batch",
    ),
    Call(
        NOBODY,
        "connect without a certificate",
        lambda w: _score(w, {}, caller=""),
        TLS_REFUSED,
        ENVOY,
        checked=False,
    ),
    Call(
        NOBODY,
        "score on the listener for tokens",
        lambda w: _score(w, {}, caller="", listener="tokens"),
        "401",
        "no_credentials",
    ),
    Call(ALICE, "score with an expired token", _expired, "401", "expired_token"),
    Call("mallory", "score with a token she signed herself", _forged, "401", "invalid_token"),
    Call(
        CHECKOUT,
        "name the churn model in a gRPC body",
        lambda w: w.clients.triton_grpc("churn", "checkout"),
        "PERMISSION_DENIED",
        "no_policy",
    ),
    Call(
        "carol (contractor, token)",
        "score with fraud",
        lambda w: _score(w, w.bearer("carol", "data_scientist", org="contractor")),
        "403",
        "denied_by_policy",
        "no_contractors_in_production",
    ),
    Call(
        ALICE,
        "deploy fraud: the wrong role",
        lambda w: w.clients.deploy("fraud", w.bearer("alice", "data_scientist", mfa=True)),
        "403",
        "no_policy",
    ),
    Call(
        MARIA,
        "deploy fraud: not approved",
        lambda w: w.clients.deploy("fraud", w.bearer("maria", "mlops_engineer", mfa=True)),
        "403",
        "conditions_not_met",
        DEPLOYMENT,
    ),
    Call(
        MARIA,
        "deploy fraud: approved, no second factor",
        lambda w: w.clients.deploy("fraud", w.bearer("maria", "mlops_engineer")),
        "403",
        "conditions_not_met",
        DEPLOYMENT,
        before=approve,
    ),
    Call(
        MARIA,
        "deploy fraud: approved, second factor",
        lambda w: w.clients.deploy("fraud", w.bearer("maria", "mlops_engineer", mfa=True)),
        "200",
        "allowed",
        DEPLOYMENT,
    ),
    Call(
        ALICE,
        f"read clicks (low) from {INSIDE}",
        lambda w: _alice(w, "/datasets/clicks/rows", INSIDE),
        "200",
        "allowed",
        TRAINING,
    ),
    Call(
        ALICE,
        f"read clicks (low) from {OUTSIDE}",
        lambda w: _alice(w, "/datasets/clicks/rows", OUTSIDE),
        "403",
        "conditions_not_met",
        TRAINING,
    ),
    Call(
        ALICE,
        f"the same, saying she came from {INSIDE}",
        lambda w: _alice(w, "/datasets/clicks/rows", f"{INSIDE}, {OUTSIDE}"),
        "403",
        "conditions_not_met",
        TRAINING,
    ),
    Call(
        ALICE,
        f"read customer-pii (high) from {INSIDE}",
        lambda w: _alice(w, "/datasets/customer-pii/rows", INSIDE),
        "403",
        "no_policy",
    ),
    Call(
        ALICE,
        "read clicks, sending x-authz-subject: root",
        lambda w: _alice(
            w,
            "/datasets/clicks/rows",
            INSIDE,
            {"x-authz-subject": "root", "X-Authz-Roles": "admin", "x-authz-admin": "true"},
        ),
        "200",
        "allowed",
        TRAINING,
        proof=_saw_alice,
    ),
    Call(
        ALICE,
        "read clicks/../customer-pii",
        lambda w: _alice(w, "/datasets/clicks/../customer-pii/rows", INSIDE),
        "403",
        "no_policy",
    ),
    Call(
        ALICE,
        "read clicks/..%2Fcustomer-pii",
        lambda w: _alice(w, "/datasets/clicks/..%2Fcustomer-pii/rows", INSIDE),
        "400",
        ENVOY,
        checked=False,
    ),
    Call(
        ALICE,
        "read clicks/%252e%252e/customer-pii",
        lambda w: _alice(w, "/datasets/clicks/%252e%252e/customer-pii/rows", INSIDE),
        "400",
        "ambiguous_path",
    ),
    Call(
        CHECKOUT,
        "ask a host that nobody routes",
        lambda w: w.clients.http("GET", "elsewhere.internal", "/", caller="checkout"),
        "403",
        "no_route",
    ),
    Call(
        "explain --at",
        "clicks on Sunday 03:00, seed policies alone",
        _explain("office-hours.yaml", SUNDAY),
        "deny",
        "conditions_not_met",
        TRAINING,
        checked=False,
    ),
    Call(
        "explain --at",
        "clicks on Monday 10:00, seed policies alone",
        _explain("office-hours.yaml", MONDAY),
        "allow",
        "allowed",
        TRAINING,
        checked=False,
    ),
)
