"""Writes the protocol tables of docs/mapping.md: `python tests/support/mapping_docs.py` from the repository's root."""

from pathlib import Path

from ext_authz.mappers.adapter import Adapter, Row
from ext_authz.mappers.protocols import ADAPTERS

BEGIN = "<!-- tables: begin (written by tests/support/mapping_docs.py) -->"
END = "<!-- tables: end -->"
FILE = Path(__file__).parents[2] / "docs/mapping.md"


def tables() -> str:
    return "\n".join(_table(adapter) for adapter in ADAPTERS)


def updated(text: str) -> str:
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{tables()}\n{END}{tail}"


def _table(adapter: Adapter) -> str:
    lines = [f"### `{adapter.name}`", ""]
    for beginning, others in adapter.aliases.items():
        also = ", ".join(f"`{other}`" for other in others)
        lines += [f"What stands below `{beginning}` stands below {also} too.", ""]
    lines += ["| call | resource | where it is named | action | reads of the body |"]
    lines.append("|---|---|---|---|---|")
    lines += [_line(row) for row in adapter.rows]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    also = "".join(f", `{action}`" + ("" if kind == row.type else f" ({kind})") for kind, action in row.also)
    method = "any" if row.method == "*" else row.method
    return f"| {method} `{row.template}` | {row.type} | {row.place.where} | `{row.action}`{also} | {row.place.reads.value} |"


if __name__ == "__main__":
    FILE.write_text(updated(FILE.read_text()))
