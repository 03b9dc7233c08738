"""Writes the table of docs/metrics.md from the code: `python tests/support/metrics_docs.py`."""

from pathlib import Path

FILE = Path(__file__).parents[2] / "docs/metrics.md"
BEGIN = "<!-- table: written by tests/support/metrics_docs.py -->\n"

LABELS = {
    "bundle": "names of bundles in the configuration",
    "decision": "`allow`, `deny`",
    "detector": "the detectors of [monitoring](monitoring.md)",
    "effect": "`allow`, `deny`",
    "error": "kinds of exception of the program",
    "issuer": "issuers of the configuration",
    "mode": "`enforce`, `shadow`",
    "outcome": "`emitted`, `delivered`, `pending`, `dropped`, `retries`, `refused`, `unrecorded`",
    "policy": "ids of loaded policies",
    "process": "`control`, `worker-N`",
    "reason": "the [reasons](reasons.md)",
    "result": "words of the program: `ok`, `failed`, and the like",
    "revision": "the revision in force",
    "sink": "sinks of the configuration, and `trail`",
    "why": "words of the program",
}
"""Where each label's values come from: never from a caller."""


def table() -> str:
    """Return the table of every metric."""
    from ext_authz.server.metrics import FAMILIES

    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for name, family in sorted(FAMILIES.items()):
        labels = ", ".join(f"`{each}`" for each in family.labels)
        lines.append(f"| `{name}` | {family.kind} | {labels} | {family.help} |")
    lines += ["", "| label | values |", "|---|---|"]
    lines += [f"| `{name}` | {values} |" for name, values in sorted(LABELS.items())]
    return "\n".join(lines) + "\n"


def written() -> str:
    """Return the file with the table in it."""
    return FILE.read_text().partition(BEGIN)[0] + BEGIN + table()


if __name__ == "__main__":
    FILE.write_text(written())
