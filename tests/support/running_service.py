"""A Service in this process over real parts: spool, committer, policies, routes; only the disk may be made to fail."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson
from trails import lines, new_spool

from ext_authz import wiring
from ext_authz.audit.spool import Committer, Spool
from ext_authz.server.metrics import WorkerMetrics
from ext_authz.server.service import Service
from ext_authz.state import EMPTY_STATE, State

CONFIGURATION = """\
run_dir: run
identity:
  mtls: {trust_domains: [ml.example]}
  api_keys: {file: api-keys.yaml}
  role_bindings:
  - {role: scorer, members: ["spiffe://ml.example/ns/apps/sa/scorer"]}
  - {role: deployer, members: ["spiffe://ml.example/ns/ci/sa/deployer"]}
server: {trusted_proxies: [192.0.2.0/24]}
resources: {files: [resources.yaml]}
policies: {files: [policies.yaml]}
"""
RESOURCES = """\
routes:
- {host: models.internal, path: /healthz, methods: [GET], unsafe_public: true}
- {name: models, host: models.internal, protocol: open-inference, attributes: {stage: production}}
- {name: lake, host: lake.internal, methods: [GET], path: "/datasets/{id}/**", resource: {type: dataset, id: "{id}"}, action: read_data}
catalog:
- {type: dataset, id: clicks, sensitivity: low}
"""
POLICIES = """\
policies:
- id: scoring
  subjects: [{role: scorer}]
  resources: [{type: model, id: fraud}]
  actions: [infer, read_metadata]
  headers: {x-tier: gold}
- id: deploying
  subjects: [{role: deployer}]
  resources: [{type: model}]
  actions: [deploy_model]
  conditions: [{audit_logged: true}]
- id: no_secret_model
  effect: deny
  subjects: [{any: true}]
  resources: [{type: model, id: secret}]
"""
SCORER = "spiffe://ml.example/ns/apps/sa/scorer"
DEPLOYER = "spiffe://ml.example/ns/ci/sa/deployer"


def write_configuration(
    folder: Path, configuration: str = CONFIGURATION, policies: str = POLICIES, resources: str = RESOURCES
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ext-authz.yaml").write_text(configuration)
    (folder / "resources.yaml").write_text(resources)
    (folder / "policies.yaml").write_text(policies)
    keys = folder / "api-keys.yaml"
    if not keys.exists():
        keys.write_text("keys: []\n")
        keys.chmod(0o600)
    return folder / "ext-authz.yaml"


@dataclasses.dataclass
class Running:
    service: Service
    spool: Spool
    committer: Committer
    metrics: WorkerMetrics
    folder: Path

    def events(self) -> list[dict]:
        return [orjson.loads(line) for line in lines(self.spool.directory)]

    def close(self) -> None:
        self.committer.stop()
        self.spool.close()


def start(
    folder: Path, state: State = EMPTY_STATE, more: Mapping[str, Any] = MappingProxyType({}), **options
) -> Running:
    """`more` goes to the Service (`clock_ns`, `input_key`, …), what is left to `write_configuration`."""
    configuration = write_configuration(folder, **options)
    _, snapshot = wiring.load(configuration, os.environ)
    spool = new_spool(folder / "audit")
    committer = Committer(spool)
    committer.start()
    metrics = WorkerMetrics("worker-0")
    service = Service(read_state=lambda: state, spool=spool, committer=committer, metrics=metrics, **more)
    service.snapshot = snapshot
    return Running(service, spool, committer, metrics, folder)
