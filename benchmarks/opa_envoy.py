"""OPA-Envoy with the same rules, the same token and its decision log on, to stand beside the sidecar.

The binary is built by its users, for example from a checkout of opa-envoy-plugin: `go build ./cmd/opa-envoy-plugin`.
"""

import json
from pathlib import Path

REGO = """package envoy.authz

import rego.v1

default allow := false

token := t if {
    header := input.attributes.request.http.headers.authorization
    startswith(header, "Bearer ")
    t := substring(header, 7, -1)
}

claims := payload if {
    [valid, _, payload] := io.jwt.decode_verify(token, {
        "cert": json.marshal(data.jwks), "alg": "RS256", "iss": "https://idp.example", "aud": "ml",
    })
    valid
}

segments := split(trim_left(input.attributes.request.http.path, "/"), "/")

client := input.attributes.request.http.headers["x-forwarded-for"]

office_hours if {
    now := input.attributes.request.time.seconds * 1000000000
    [hour, _, _] := time.clock(now)
    hour >= 9
    hour < 17
    not time.weekday(now) in {"Saturday", "Sunday"}
}

allow if {
    "data_scientist" in claims.roles
    input.attributes.request.http.method == "GET"
    segments[0] == "datasets"
    data.catalog[segments[1]].sensitivity == "low"
    net.cidr_contains("10.0.0.0/8", client)
    office_hours
}

result := {"allowed": true, "headers": {
    "x-authz-subject": claims.sub, "x-authz-auth": "jwt", "x-authz-roles": concat(",", claims.roles),
    "x-authz-policy": "data_scientist_training",
}} if allow

result := {"allowed": false, "http_status": 403} if not allow
"""


def command(binary: Path, folder: Path, jwks: Path, *, address: str) -> list[str]:
    """Write policy, data and configuration to `folder`; return what starts the server on `address` (unix:PATH)."""
    (folder / "policy.rego").write_text(REGO)
    data = {"jwks": json.loads(jwks.read_text()), "catalog": {"clicks": {"sensitivity": "low"}}}
    (folder / "data.json").write_text(json.dumps(data))
    configuration = {
        "plugins": {
            "envoy_ext_authz_grpc": {"addr": address.replace("unix:", "unix://"), "path": "envoy/authz/result"}
        },
        "decision_logs": {"console": True},
    }
    (folder / "opa.json").write_text(json.dumps(configuration))
    # Its log, decisions included, goes to a file as ours goes to one; the line that says it is ready comes from us.
    script = (
        f"rm -f {folder}/*.sock; GOMAXPROCS=1 {binary} run --server --addr unix://{folder}/rest.sock --config-file {folder}/opa.json "
        f"--log-level info {folder}/policy.rego {folder}/data.json > {folder}/opa.log 2>&1 & "
        f"while ! [ -S {address.removeprefix('unix:')} ]; do sleep 0.05; done; echo ready; wait"
    )
    return ["bash", "-c", script]
