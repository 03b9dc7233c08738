"""docker-compose.yml and Dockerfile: valid, closed, and in step with what the end-to-end tests run.

The schema below is our own subset of the compose specification (https://github.com/compose-spec/compose-spec):
the keys we use with the types the specification gives them, and nothing else.
"""

import os
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from ext_authz import wiring
from ext_authz.demo import envoy, pki
from ext_authz.demo.compose import COMPOSE
from ext_authz.envoy_config.generate import generate
from ext_authz.envoy_config.lint import lint_text
from ext_authz.envoy_config.rules import Facts

ROOT = Path(__file__).parents[2]
DOCUMENT = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = DOCUMENT["services"]

STRINGS = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
COMMAND = {"type": "array", "items": {"type": "string"}}
DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|s|m|h))+$"}
NAME = r"^[a-zA-Z0-9._-]+$"


def closed(properties, required=()):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


SERVICE = closed(
    {
        "image": {"type": "string", "pattern": r"^[a-z0-9./-]+:[A-Za-z0-9._-]+$"},
        "build": closed({"context": {"type": "string"}, "target": {"type": "string"}}, ["context"]),
        "entrypoint": COMMAND,
        "command": COMMAND,
        "user": {"type": "string"},
        "read_only": {"type": "boolean"},
        "cap_drop": STRINGS,
        "security_opt": STRINGS,
        "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
        "network_mode": {"type": "string"},
        "networks": STRINGS,
        "ports": {**STRINGS, "items": {"type": "string", "pattern": r"^([0-9.]+:)?[0-9]+:[0-9]+$"}},
        "volumes": {**STRINGS, "items": {"type": "string", "pattern": r"^[^:]+:/[^:]*(:ro)?$"}},
        "tmpfs": STRINGS,
        "profiles": STRINGS,
        "stop_grace_period": DURATION,
        "healthcheck": closed(
            {"test": COMMAND, "interval": DURATION, "timeout": DURATION, "retries": {"type": "integer"}}
        ),
        "depends_on": {
            "type": "object",
            "patternProperties": {
                NAME: closed(
                    {"condition": {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}},
                    ["condition"],
                )
            },
            "additionalProperties": False,
        },
    }
)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "services": {"type": "object", "patternProperties": {NAME: SERVICE}, "additionalProperties": False},
        "networks": {
            "type": "object",
            "patternProperties": {
                NAME: closed(
                    {
                        "internal": {"type": "boolean"},
                        "ipam": closed({"config": {"type": "array", "items": closed({"subnet": {"type": "string"}})}}),
                    }
                )
            },
            "additionalProperties": False,
        },
        "volumes": {"type": "object", "patternProperties": {NAME: closed({})}, "additionalProperties": False},
    },
    "patternProperties": {"^x-": {}},
    "additionalProperties": False,
    "required": ["services"],
}


def test_it_is_valid_compose():
    jsonschema.Draft202012Validator(SCHEMA).validate(DOCUMENT)


def test_every_name_it_uses_is_defined():
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    for service in SERVICES.values():
        assert set(service.get("networks", [])) <= set(DOCUMENT["networks"])
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        assert ("image" in service) != ("build" in service)
        assert service.get("build", {}).get("target", "sidecar") in stages
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in DOCUMENT["volumes"] or (source.startswith("./") and (ROOT / source).exists()), source


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_hardened(name):
    service = SERVICES[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_nothing_listens_beyond_this_machine():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_sidecar_has_no_network_and_upstreams_are_behind_envoy_alone():
    assert SERVICES["sidecar"]["network_mode"] == "none"
    assert DOCUMENT["networks"]["upstreams"]["internal"] is True
    joined = {name for name, service in SERVICES.items() if "upstreams" in service.get("networks", [])}
    assert joined == {"envoy", "models", "lake"}
    assert not any("ports" in SERVICES[name] for name in ("models", "lake"))


def test_only_envoy_reaches_the_sidecars_sockets():
    holders = {
        name for name, service in SERVICES.items() if any("sockets:" in each for each in service.get("volumes", []))
    }
    assert holders == {"sidecar", "envoy"}


def test_the_envoy_file_that_it_mounts_is_the_generated_one():
    path = ROOT / "envoy" / "compose" / "envoy.yaml"
    assert f"./{path.relative_to(ROOT)}:/etc/envoy/envoy.yaml:ro" in SERVICES["envoy"]["volumes"]
    assert path.read_text() == generate(COMPOSE), "write generate(COMPOSE) into envoy/compose/envoy.yaml"


def placed(tmp_path: Path, name: str) -> Path:
    """Copy a file that compose mounts, with the volumes' places under `tmp_path`."""
    names = [each.split("=") for each in SERVICES["certificates"]["command"][1:]]
    assert pki.main([str(tmp_path / "certs"), *(f"{a}={b}" for a, b in names)]) == 0
    text = (ROOT / "envoy" / "compose" / name).read_text()
    for place in ("/certs", "/var/lib/ext-authz", "/run/ext-authz"):
        text = text.replace(place, str(tmp_path / place.split("/")[-1]) if place == "/certs" else f"{tmp_path}{place}")
    (tmp_path / "policies").symlink_to(ROOT / "policies")
    path = tmp_path / name
    path.write_text(text)
    return path


def test_the_sidecars_configuration_loads_and_agrees_with_envoys(tmp_path):
    inputs, snapshot = wiring.load(placed(tmp_path, "ext-authz.yaml"), os.environ)
    server = inputs.settings.server
    assert tuple(each.replace(str(tmp_path), "") for each in server.addresses()) == COMPOSE.authz
    facts = Facts(
        max_request_bytes=server.max_request_bytes,
        workers=server.worker_count(),
        trusted_hops=0,
        headers_read=snapshot.header_names,
        headers_injected=snapshot.headers.injectable,
    )
    assert server.trusted_proxies == ()
    assert lint_text(generate(COMPOSE), "envoy.yaml", facts) == ()


def test_certificates_are_made_once(tmp_path):
    placed(tmp_path, "ext-authz.yaml")
    before = {each.name: each.read_bytes() for each in (tmp_path / "certs").iterdir()}
    assert {"ca.pem", "server.pem", "server.key", "checkout.pem", "checkout.key", "tokens.pem"} <= set(before)
    secret = [name for name in before if name.endswith(".key") or name == "tokens.pem"]
    assert all((tmp_path / "certs" / name).stat().st_mode & 0o077 == 0 for name in secret)
    assert pki.main([str(tmp_path / "certs"), "checkout=spiffe://ml.example/ns/payments/sa/checkout"]) == 0
    assert {each.name: each.read_bytes() for each in (tmp_path / "certs").iterdir()} == before


@pytest.mark.e2e
def test_envoy_accepts_the_file(tmp_path):
    path = placed(tmp_path, "envoy.yaml")
    done = subprocess.run(
        [envoy.find(), "--mode", "validate", "-c", path], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr


def test_the_images_run_as_nobody_in_particular():
    text = (ROOT / "Dockerfile").read_text()
    users = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    assert users == ["10001:10001"]
    last = text.rpartition("\nFROM ")[2]
    assert last.startswith("base AS sidecar")
    assert "ADD " not in text
    assert all(":" in image for image in re.findall(r"^FROM (\S+) AS", text, re.MULTILINE) if "/" in image)


def test_only_what_the_image_needs_is_sent_to_the_builder():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    wanted = {f"!{name}" for names in copied for name in names.split()}
    assert wanted == {line for line in lines if line.startswith("!")}
