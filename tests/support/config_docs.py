"""Writes the reference of docs/configuration.md from the settings: `python tests/support/config_docs.py`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "docs/configuration.md"
BEGIN = "<!-- reference: written by tests/support/config_docs.py -->\n"


def rows(schema: dict[str, Any], node: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (key, default, description) of every key, depth first."""
    for name, each in node.get("properties", {}).items():
        key = f"{path}.{name}" if path else name
        required = name in node.get("required", [])
        default = "required" if required else _default(each)
        described = next((inner.get("description", "") for inner, _ in _inner(schema, each)), "")
        yield key, default, each.get("description") or described
        for inner, suffix in _inner(schema, each):
            yield from rows(schema, inner, key + suffix)


def _inner(schema: dict[str, Any], node: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    if "$ref" in node:
        yield schema["$defs"][node["$ref"].rpartition("/")[2]], ""
    for each in (*node.get("anyOf", []), *node.get("oneOf", [])):
        yield from _inner(schema, each)
    if "items" in node:
        for inner, _ in _inner(schema, node["items"]):
            yield inner, "[]"


def _default(node: dict[str, Any]) -> str:
    default = node.get("default")
    if default is None or default in ("", [], {}):
        return ""
    if isinstance(default, dict):
        return ""
    text = ", ".join(map(str, default)) if isinstance(default, list) else str(default)
    return f"`{text.lower() if isinstance(default, bool) else text}`"


def reference() -> str:
    """Return the table of every key."""
    from ext_authz.config import Settings
    from ext_authz.tools.schemas import config_schema

    raw = Settings.model_json_schema()
    cleaned = config_schema()
    defaults = {key: default for key, default, _ in rows(raw, raw)}
    lines = ["| key | default | meaning |", "|---|---|---|"]
    seen: set[str] = set()
    for key, _, described in rows(cleaned, cleaned):
        description = _sentence(described)
        if key in seen:
            continue
        seen.add(key)
        default = defaults.get(key, "")
        text = description.replace("|", "\\|")
        lines.append(f"| `{key}` | {_human(key, default)} | {text} |")
    return "\n".join(lines) + "\n"


def _sentence(description: str) -> str:
    """Say what is refused as a sentence of its own."""
    return (
        description.replace("(not available", "Not available")
        .replace("version)", "version.")
        .replace(
            "not available in this version",
            "Not available in this version.",
            description == "not available in this version",
        )
    )


MIB = 2**20
SECONDS = (
    "drain",
    "leeway",
    "max_lifetime",
    "lifetime",
    "max_age",
    "timeout",
    "linger",
    "poll",
    "remember",
    "time_limit",
)


def _human(key: str, default: str) -> str:
    if default.strip("`").isdigit() and key.rpartition(".")[2] in SECONDS:
        return f"`{default.strip('`')}s`"
    if key.rpartition(".")[2].startswith("max_") and default.strip("`").isdigit() and int(default.strip("`")) >= MIB:
        return f"`{int(default.strip('`')) // MIB}MiB`"
    if key == "audit.sinks[].batch.bytes":
        return "`256KiB`"
    if key == "audit.sinks[].window":
        return "`64KiB`"
    return default


def written() -> str:
    """Return the whole page as it should be."""
    return FILE.read_text().partition(BEGIN)[0] + BEGIN + reference()


if __name__ == "__main__":
    FILE.write_text(written())
