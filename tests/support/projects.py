"""Small configurations on disk for tests: a folder with ext-authz.yaml and whatever else is named."""

from collections.abc import Mapping
from pathlib import Path

POLICY = 'policies:\n  - {id: ok, subjects: [{any: true}], resources: [{type: "*"}], actions: ["*"]}\n'
MINIMAL = "policies: {files: [policies.yaml]}\n"

SEED_POLICIES = """\
policies:
  - id: data_scientist_training
    subjects:   [{role: data_scientist}]
    resources:  [{type: dataset, sensitivity: low}, {type: training_cluster, environment: dev}]
    actions:    [read_data, submit_training_job, read_metrics]
    conditions: [{ip_range: 10.0.0.0/8}, {time_window: business_hours}]
  - id: production_model_deployment
    subjects:   [{role: mlops_engineer}, {approval: security_team}]
    resources:  [{type: model, stage: production}, {type: deployment_platform, environment: prod}]
    actions:    [deploy_model, monitor_performance]
    conditions: [{mfa_required: true}, {audit_logged: true}]
"""
LAKE = """\
resources:
  routes:
    - {host: lake.internal, path: /healthz, methods: [GET], unsafe_public: true}
    - host: lake.internal
      methods: [GET]
      path: "/datasets/{id}/**"
      resource: {type: dataset, id: "{id}"}
      action: read_data
  catalog:
    - {type: dataset, id: clicks, sensitivity: low}
"""


def project(folder: Path, config: str = MINIMAL, files: Mapping[str, str | bytes] | None = None) -> Path:
    """Write a configuration (a policy file that allows all beside it, unless named) and return its path."""
    for name, content in {"policies.yaml": POLICY, **(files or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path = folder / "ext-authz.yaml"
    path.write_text(config)
    return path
