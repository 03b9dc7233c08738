"""One Envoy that answers each recipe of the Istio cookbook twice: by istiod's RBAC filter, and by our sidecar.

The RBAC filters are recorded (tests/recorded/istio-rbac.json, by istio_recording.py). What stands round them is as istiod sets it up: mutual
TLS that a caller may do without, tokens verified by `jwt_authn` into its metadata, normalized paths.
"""

import contextlib
import json
import shutil
import ssl
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import running_service
from cookbooks import Recipe
from cryptography.hazmat.primitives.asymmetric import ec

from ext_authz.demo import envoy
from ext_authz.demo.envoy import Envoy
from ext_authz.demo.pki import Authority, Pair, jwks
from ext_authz.demo.processes import Processes
from ext_authz.server.transport import ListenOptions, open_transport

RECORDED = Path(__file__).parents[1] / "recorded" / "istio-rbac.json"
ISSUERS = ("https://idp.example", "https://other.example")
# Not 127.0.0.1, which Envoy takes for itself and would not append to x-forwarded-for.
BALANCER = "127.0.0.2"
HOST = "ml.internal"
TYPE = "type.googleapis.com/envoy.extensions"
IDENTITY = """\
identity:
  mtls: {trust_domains: [cluster.local]}
  jwt:
    - {issuer: "https://idp.example", audiences: [ml], jwks_file: jwks.json, algorithms: [ES256], claims: {roles: roles, groups: groups}}
    - {issuer: "https://other.example", audiences: [ml], jwks_file: jwks.json, algorithms: [ES256], claims: {groups: groups}, subject_prefix: "other/"}
resources: {files: [resources.yaml]}
policies: {files: [policies.yaml]}
"""


@dataclass(frozen=True)
class Asked:
    """One request: what the caller proves, and what it asks for. An empty certificate or no token: none."""

    certificate: str
    token: Mapping[str, Any] | None
    method: str
    host: str
    path: str
    address: str


def asked(case: Mapping[str, Any]) -> Asked | None:
    """Return a case of the page as a request; None where Envoy cannot send such a one: it knows every address."""
    if "request" in case:
        attributes = case["request"]["attributes"]
        http = attributes["request"]["http"]
        return Asked(attributes["source"]["principal"], None, http["method"], http["host"], http["path"], "")
    address = case.get("context", {}).get("ip", "")
    if address == "unknown":
        return None
    subject, resource = case["subject"], case["resource"]
    name = subject.get("id", "")
    certificate = name if name.startswith("spiffe://") else subject.get("workload", "")
    token = None
    if name and not name.startswith("spiffe://"):
        claims = {key: subject[key] for key in ("roles",) if key in subject} | subject.get("claims", {})
        token = {"iss": subject.get("issuer", ISSUERS[0]), "sub": name.removeprefix("sub:"), **claims}
    method = "DELETE" if case["action"].startswith("delete") else "GET"
    return Asked(certificate, token, method, HOST, f"/{resource['type']}/{resource['id']}/{case['action']}", address)


def routes(recipe: Recipe) -> str:
    """Return a route for everything that the cases ask for."""
    lines = []
    for case in recipe.cases():
        one = asked(case)
        if one is not None and "resource" in case:
            resource = json.dumps(case["resource"])
            lines.append(
                f"  - {{host: {one.host}, methods: [{one.method}], path: {json.dumps(one.path)},"
                f" resource: {resource}, action: {case['action']}}}"
            )
    return "\n".join(["routes:", *dict.fromkeys(lines), ""])


class Peers:
    """`ask` sends one request to both sides of a recipe and says who let it through."""

    def __init__(self, proxy: Envoy, key: ec.EllipticCurvePrivateKey, authority: Authority) -> None:
        self.envoy = proxy
        self._key = key
        self._authority = authority
        self._certificates: dict[str, Pair] = {}

    def answers(self, number: int, one: Asked) -> tuple[int, int]:
        """Return the statuses of Istio's side and of ours."""
        return self._status(f"theirs-{number}", one), self._status(f"ours-{number}", one)

    def _status(self, listener: str, one: Asked) -> int:
        context = ssl.create_default_context(cafile=self._authority.certificate)
        if one.certificate:
            pair = self._pair(one.certificate)
            context.load_cert_chain(pair.certificate, pair.private_key)
        headers = [("host", one.host)]
        if one.address:
            headers.append(("x-forwarded-for", one.address))
        if one.token is not None:
            now = int(time.time())
            claims = {"aud": "ml", "iat": now - 5, "exp": now + 600, **one.token}
            token = jwt.encode(claims, self._key, "ES256", headers={"kid": "k1", "typ": "JWT"})
            headers.append(("authorization", f"Bearer {token}"))
        transport = httpx.HTTPTransport(verify=context, local_address=BALANCER, trust_env=False)
        with httpx.Client(transport=transport, base_url=f"https://127.0.0.1:{self.envoy.ports[listener]}") as client:
            extensions = {"target": one.path.encode()}
            return client.send(
                client.build_request(one.method, "/", headers=headers, extensions=extensions)
            ).status_code

    def _pair(self, name: str) -> Pair:
        if name not in self._certificates:
            self._certificates[name] = self._authority.client(f"client-{len(self._certificates)}", name)
        return self._certificates[name]


@contextlib.contextmanager
def running(directory: Path, cookbook: Sequence[Recipe]) -> Iterator[Peers]:
    """Start a service for each recipe, and one Envoy with two listeners for each."""
    # Unix socket paths are short; pytest's directories are not.
    sockets = Path(tempfile.mkdtemp(prefix="xa-"))
    filters = json.loads(RECORDED.read_text())["filters"]
    key = ec.generate_private_key(ec.SECP256R1())
    keys = jwks(key.public_key(), "k1")
    authority = Authority(directory / "pki")
    server = authority.server("server")
    listeners, clusters = [], []
    with contextlib.ExitStack() as kept:
        kept.callback(shutil.rmtree, sockets, ignore_errors=True)
        for number, recipe in enumerate(cookbook):
            place = sockets / f"{number}.sock"
            _serve(kept, directory / str(number), recipe, keys, place)
            clusters.append(_cluster(f"sidecar-{number}", place))
            theirs = [_tokens(keys), *filters[recipe.title]["filters"]]
            listeners.append(_listener(f"theirs-{number}", theirs, server, authority, normalize=True))
            ours = [_ext_authz(f"sidecar-{number}")]
            # Paths reach the sidecar as they were sent: what it makes of them is its own.
            listeners.append(_listener(f"ours-{number}", ours, server, authority, normalize=False))
        file = directory / "envoy.json"
        admin = {"address": {"pipe": {"path": f"{sockets}/admin.sock", "mode": 0o600}}}
        file.write_text(
            json.dumps({"admin": admin, "static_resources": {"listeners": listeners, "clusters": clusters}})
        )
        processes = kept.enter_context(Processes(directory / "logs"))
        yield Peers(
            envoy.start_file(processes, file, sockets / "admin.sock", directory / "access.jsonl"),
            key,
            authority,
        )


def _serve(kept: contextlib.ExitStack, folder: Path, recipe: Recipe, keys: str, place: Path) -> None:
    policies, configuration = recipe.ours()
    own = "resources:" in configuration
    folder.mkdir(parents=True)
    (folder / "jwks.json").write_text(keys)
    service = running_service.start(
        folder,
        configuration=f'run_dir: run\nserver: {{trusted_proxies: ["{BALANCER}/32"]}}\n'
        + (configuration if own else IDENTITY),
        policies=policies,
        resources=routes(recipe),
    )
    kept.callback(service.close)
    transport = open_transport("native", service.service, ListenOptions((f"unix:{place}",), 2**20))
    transport.start()
    transport.set_serving(serving=True)
    kept.callback(transport.stop, 1)


def _cluster(name: str, place: Path) -> dict[str, Any]:
    options = {"explicit_http_config": {"http2_protocol_options": {}}}
    upstream = {"@type": f"{TYPE}.upstreams.http.v3.HttpProtocolOptions", **options}
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(place)}}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": upstream},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _ext_authz(cluster: str) -> dict[str, Any]:
    service = {"envoy_grpc": {"cluster_name": cluster}, "timeout": "5s"}
    made = {"grpc_service": service, "transport_api_version": "V3", "include_peer_certificate": True}
    return {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {"@type": f"{TYPE}.filters.http.ext_authz.v3.ExtAuthz", **made},
    }


def _tokens(keys: str) -> dict[str, Any]:
    """As istiod makes of a RequestAuthentication with both issuers: who has no token goes on without."""
    providers = {
        f"issuer-{number}": {
            "issuer": issuer,
            "audiences": ["ml"],
            "local_jwks": {"inline_string": keys},
            "payload_in_metadata": "payload",
            "normalize_payload_in_metadata": {"space_delimited_claims": ["scope", "permission"]},
        }
        for number, issuer in enumerate(ISSUERS)
    }
    each = [{"provider_name": name} for name in providers]
    requires = {"requires_any": {"requirements": [*each, {"allow_missing": {}}]}}
    made = {"providers": providers, "rules": [{"match": {"prefix": "/"}, "requires": requires}]}
    return {
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {"@type": f"{TYPE}.filters.http.jwt_authn.v3.JwtAuthentication", **made},
    }


def _listener(
    name: str, filters: list[dict[str, Any]], server: Pair, authority: Authority, *, normalize: bool
) -> dict[str, Any]:
    pair = {
        "certificate_chain": {"filename": str(server.certificate)},
        "private_key": {"filename": str(server.private_key)},
    }
    tls = {
        "@type": f"{TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_certificates": [pair],
            "validation_context": {"trusted_ca": {"filename": str(authority.certificate)}},
        },
    }
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router"}}
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    manager = {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "use_remote_address": True,
        "xff_num_trusted_hops": 1,
        "normalize_path": normalize,
        "http_filters": [*filters, router],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [answer]}]},
    }
    chain = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return {"name": name, "address": address, "filter_chains": [chain]}
