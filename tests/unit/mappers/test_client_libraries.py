"""Every path that the real client libraries of OpenAI and Anthropic know is in the table, or left out on purpose."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from mapping_support import facts, meaning, table

ROUTES = table("routes: [{host: openai, protocol: openai}, {host: anthropic, protocol: anthropic}]")
_CALL = re.compile(r"self\._(get|post|put|patch|delete|get_api_list)\(\s*(?:path_template\(\s*)?f?\"(/[^\"]*)\"")
# What the clouds of their makers serve and nothing that stands behind an Envoy of one's own; docs/mapping.md says so.
LEFT_OUT = {
    "openai": (
        "/v1/agents", "/v1/audio/voice_consents", "/v1/audio/voices", "/v1/chatkit", "/v1/content_provenance_checks",
        "/v1/decisions", "/v1/evals", "/v1/fine_tuning/alpha", "/v1/fine_tuning/checkpoints", "/v1/live", "/v1/organization",
        "/v1/projects", "/v1/realtime/", "/v1/safety", "/v1/skills", "/v1/vaults", "/v1/videos/characters",
        "/v1/videos/edits", "/v1/videos/extensions", "/v1/webhook_",
    ),
    "anthropic": (
        "/v1/agents", "/v1/deployment", "/v1/dreams", "/v1/environments", "/v1/memory_stores", "/v1/organizations",
        "/v1/sessions", "/v1/skills", "/v1/tunnels", "/v1/user_profiles", "/v1/vaults",
    ),
}  # fmt: skip


def calls(package: str) -> set[tuple[str, str]]:
    """Read (method, path) off the library's source, its slots filled with `x1`."""
    found = set()
    for file in (Path(find_spec(package).origin).parent / "resources").rglob("*.py"):
        text = file.read_text()
        for call in _CALL.finditer(text):
            method = call.group(1).upper()
            if method == "GET_API_LIST":
                rest = text[call.end() : call.end() + 2000].split("self._")[0]
                method = "POST" if 'method="post"' in rest else "GET"
            path = re.sub(r"\{[^}]*\}", "x1", call.group(2)).partition("?")[0]
            found.add((method, path if path.startswith("/v1/") else f"/v1{path}"))
    return found


@pytest.mark.parametrize("package", LEFT_OUT)
def test_every_call_of_the_client_is_routed_or_left_out_on_purpose(package):
    known = calls(package)
    assert len(known) > 100
    unrouted = {each for each in known if meaning(ROUTES, facts(*each, package)) == "no_route"}
    assert not {each for each in unrouted if not each[1].startswith(LEFT_OUT[package])}
    for prefix in LEFT_OUT[package]:
        assert any(path.startswith(prefix) for _, path in unrouted), f"{prefix} need not be named"
