"""What came of the calls, as one table that a person reads.

Law: a row that differs from what it says it should be is marked and counted;
text from outside is printed as text, never as markup. Non-goal: judging by anything else.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ext_authz.demo.calls import ENVOY, INSIDE, Call, World
from ext_authz.demo.clients import LAKE_HOST, MODELS_HOST, Answer
from ext_authz.demo.files import BALANCER, Files

WIDTH: Final = 160
"""Columns where the output is no terminal."""


@dataclass(frozen=True, slots=True)
class Row:
    """One call and what came of it. `problem` "" means: just as it should be."""

    call: Call
    answer: Answer
    reason: str
    policy: str
    problem: str = ""


def judge(call: Call, answer: Answer, reason: str, policy: str) -> Row:
    """Compare what happened with what should have."""
    wrong = [
        f"{name} should be {wanted or 'empty'}"
        for name, wanted, got in (
            ("answer", call.answer, answer.label),
            ("reason", call.reason, reason),
            ("policy", call.policy, policy),
        )
        if wanted != got
    ]
    if not wrong and call.proof is not None:
        wrong = list(filter(None, [call.proof(answer)]))
    return Row(call, answer, reason, policy, "; ".join(wrong))


def table(rows: Sequence[Row]) -> Table:
    """Return the table: who, what, answer, reason, policy, milliseconds."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("", "who", "what", "answer", "reason", "policy"):
        made.add_column(name, overflow="fold")
    made.add_column("ms", justify="right")
    for row in rows:
        mark = Text("✗", "bold red") if row.problem else Text("✓", "green")
        allowed = row.answer.label in ("200", "OK", "allow")
        cells = (
            mark,
            Text(row.call.who),
            Text(row.call.what),
            Text(row.answer.label, "green" if allowed else "yellow"),
            Text("by Envoy" if row.reason == ENVOY else row.reason),
            Text(row.policy),
            # What a command takes to start says nothing of a check.
            Text("" if row.answer.reason else f"{row.answer.milliseconds:.0f}"),
        )
        made.add_row(*cells)
        if row.problem:
            made.add_row("", "", Text(row.problem, "red"))
            made.add_row("", "", Text(row.answer.text[:400], "dim"))
    return made


def next_steps(console: Console, files: Files) -> None:
    """Say where to look next."""
    console.print()
    console.print(
        "business_hours is all week here (policies/demo.yaml); the two last rows ask the seed policies alone."
    )
    console.print("Where to look next:", style="bold")
    for path, what in (
        (files.config, "the sidecar's configuration"),
        (files.directory / "envoy.yaml", "Envoy's, with a reason beside every safeguard"),
        (files.events, "one audit event per check"),
        (files.logs, "what each process said; envoy-access.jsonl has the decision beside the answer"),
    ):
        console.print(Text(f"  {path}  ").append(what, "dim"), soft_wrap=True)


def last_line(console: Console, rows: Sequence[Row], problem: str, seconds: float) -> int:
    """Print what it all comes to; return the exit status."""
    console.print()
    wrong = sum(bool(row.problem) for row in rows)
    if problem:
        console.print(Text(problem, "bold red"))
    if wrong:
        console.print(Text(f"{wrong} of {len(rows)} calls did not end as they should ({seconds:.0f} s)", "bold red"))
    elif not problem:
        checks = sum(row.call.checked for row in rows)
        console.print(
            Text(
                f"All {len(rows)} calls ended as they should; {checks} checks, {checks} audit events; {seconds:.0f} s.",
                "bold green",
            )
        )
    return 1 if wrong or problem else 0


def commands(console: Console, world: World) -> None:
    """Print curl lines for the user's own calls."""
    files, pair = world.files, world.files.callers["notebook"]
    ca = str(files.authority.certificate)

    def curl(certificate: str, key: str, host: str, rest: Sequence[str], path: str) -> str:
        parts = ["curl", "-sS", "--cacert", ca, "--cert", certificate, "--key", key, "-H", f"host: {host}", *rest]
        return shlex.join([*parts, f"https://127.0.0.1:{world.clients.ports['edge']}{path}"])

    checkout = files.callers["checkout"]
    alice = files.issuer.token("alice", ["data_scientist"])
    body = '{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP64","data":[0.5,1,-0.25,2]}]}'
    lines = (
        (
            "checkout scores with fraud; then try churn",
            curl(
                str(checkout.certificate),
                str(checkout.private_key),
                MODELS_HOST,
                ["--http1.1", "-H", "content-type: application/json", "-d", body],
                "/v2/models/fraud/infer",
            ),
        ),
        (
            f"alice reads clicks from {INSIDE} (token good for 30 minutes); then try another address or data set",
            curl(
                str(pair.certificate),
                str(pair.private_key),
                LAKE_HOST,
                ["--interface", BALANCER, "-H", f"x-forwarded-for: {INSIDE}", "-H", f"authorization: Bearer {alice}"],
                "/datasets/clicks/rows",
            ),
        ),
    )
    console.print()
    console.print("Still running. Try:", style="bold")
    for what, line in lines:
        console.print(Text(f"# {what}", "dim"), soft_wrap=True)
        console.print(Text(line), soft_wrap=True)
    ours = shlex.join([str(Path(sys.executable).with_name("ext-authz")), "audit", "tail", "-c", str(files.config)])
    console.print(Text("# what was decided (and so for the other commands of docs/cli.md)", "dim"), soft_wrap=True)
    console.print(Text(ours), soft_wrap=True)
    console.print("Ctrl-C ends everything.", style="bold")
