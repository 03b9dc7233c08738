"""A sidecar and real Envoys before recording upstreams: what the end-to-end tests talk to."""

import contextlib
import json
import shutil
import ssl
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import httpx
from echo_upstream import Upstream, grpc_echo, http_echo

from ext_authz.demo import envoy
from ext_authz.demo.compose import COMPOSE
from ext_authz.demo.envoy import Envoy
from ext_authz.demo.files import AUDIENCE, ISSUER, Issuer
from ext_authz.demo.pki import Authority, Pair
from ext_authz.demo.processes import Child, Processes
from ext_authz.demo.run import start_sidecar
from ext_authz.envoy_config.settings import EnvoySettings

MODELS = "models.internal"
LAKE = "lake.internal"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
MODEL_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
MAX_BYTES = COMPOSE.max_request_bytes
CALLER = "spiffe://ml.example/ns/tests/sa/caller"

POLICIES = """\
policies:
  - id: caller_infers
    subjects: [{id: "spiffe://ml.example/ns/tests/sa/caller"}]
    resources: [{type: model, id: fraud}]
    actions: [infer, deploy_model]
    headers: {x-team: "payments"}
  - id: scientists_read
    subjects: [{role: data_scientist}]
    resources: [{type: dataset, sensitivity: low}, {type: model, id: fraud}]
    actions: [read_data, infer]
  - id: batch_reads
    subjects: [{id: "key:batch"}]
    resources: [{type: dataset, sensitivity: low}]
    actions: [read_data]
  - id: team_of_others
    subjects: [{role: nobody}]
    resources: [{type: "*"}]
    actions: ["*"]
    headers: {x-other-team: "${subject.org}"}
"""
RESOURCES = """\
routes:
  - {name: models, host: models.internal, protocol: open-inference}
  - {host: lake.internal, methods: [GET], path: /healthz, unsafe_public: true}
  - {host: lake.internal, methods: [GET, POST], path: "/datasets/{id}/**", resource: {type: dataset, id: "{id}"}, action: read_data}
catalog:
  - {type: dataset, id: clicks, sensitivity: low}
  - {type: dataset, id: customer-pii, sensitivity: high}
"""
CONFIG = """\
server:
  listen: ["unix:{sockets}/{{worker}}.sock"]
  transport: {transport}
  workers: {workers}
  max_request_bytes: {size}
  drain: 1s
admin: {{listen: "unix:{sockets}/sidecar.sock"}}
run_dir: run
identity:
  mtls: {{trust_domains: [ml.example], ca_bundle: pki/ca.pem}}
  jwt:
    - {{issuer: "{issuer}", audiences: [{audience}], jwks_file: jwks.json, algorithms: [ES256], claims: {{roles: roles, org: org}}}}
    - {{issuer: "{issuer}/query", audiences: [{audience}], jwks_file: jwks.json, algorithms: [ES256], subject_prefix: q-, token_from: {{query: access_token}}, claims: {{roles: roles}}}}
  api_keys: {{header: x-api-key, file: api-keys.yaml}}
resources: {{files: [resources.yaml]}}
policies: {{files: [policies.yaml]}}
response: {{forward_credentials: {forward}}}
audit: {{sinks: [{{type: file, path: events.jsonl}}]}}
"""


@dataclass(frozen=True)
class Files:
    """One sidecar's directory and the credentials it believes."""

    directory: Path
    sockets: Path
    authority: Authority
    server: Pair
    caller: Pair
    issuer: Issuer

    @property
    def config(self) -> Path:
        return self.directory / "ext-authz.yaml"

    @property
    def policies(self) -> Path:
        return self.directory / "policies.yaml"

    def configure(self, transport: str, *, workers: int = 1, forward: bool = False) -> None:
        text = CONFIG.format(
            sockets=self.sockets,
            transport=transport,
            workers=workers,
            size=MAX_BYTES,
            issuer=ISSUER,
            audience=AUDIENCE,
            forward=str(forward).lower(),
        )
        self.config.write_text(text)

    def token(self, subject: str = "alice", roles: Sequence[str] = ("data_scientist",)) -> dict[str, str]:
        return {"authorization": f"Bearer {self.issuer.token(subject, roles)}"}

    def events(self) -> list[dict[str, object]]:
        path = self.directory / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextlib.contextmanager
def files(directory: Path) -> Iterator[Files]:
    directory.mkdir(parents=True, exist_ok=True)
    # Unix socket paths are short; pytest's directories are not.
    sockets = Path(tempfile.mkdtemp(prefix="xa-"))
    try:
        authority, issuer = Authority(directory / "pki"), Issuer()
        (directory / "jwks.json").write_text(issuer.jwks())
        (directory / "policies.yaml").write_text(POLICIES)
        (directory / "resources.yaml").write_text(RESOURCES)
        (directory / "api-keys.yaml").write_text("keys: []\n")
        (directory / "api-keys.yaml").chmod(0o600)
        caller = authority.client("caller", CALLER)
        yield Files(directory, sockets, authority, authority.server("server"), caller, issuer)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


@dataclass
class Edge:
    """One Envoy, its upstreams and clients for it."""

    envoy: Envoy
    files: Files
    http: Upstream
    grpc: Upstream
    sidecar: Child

    def failures(self) -> Counter[tuple[object, object]]:
        """Return why Envoy itself answered 5xx since the log was last read: flags and details."""
        found = (entry for entry in self.envoy.entries(0, 0) if entry["code"] in (500, 503))
        return Counter((entry["flags"], entry["details"], entry["authz_us"]) for entry in found)

    def clear(self) -> None:
        self.http.seen.clear()
        self.grpc.seen.clear()

    def context(self, *, certificate: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.files.authority.certificate)
        if certificate:
            context.load_cert_chain(self.files.caller.certificate, self.files.caller.private_key)
        return context

    def client(self, *, http2: bool = False, certificate: bool = True) -> httpx.Client:
        port = self.envoy.ports["edge" if certificate else "tokens"]
        return httpx.Client(
            base_url=f"https://127.0.0.1:{port}",
            verify=self.context(certificate=certificate),
            http1=not http2,
            http2=http2,
            trust_env=False,
            timeout=10,
        )

    def request(
        self,
        method: str,
        host: str,
        target: str,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        *,
        http2: bool = False,
        certificate: bool = True,
        content: bytes | None = None,
    ) -> httpx.Response:
        """Send one request whose target arrives byte for byte."""
        listed = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        with self.client(http2=http2, certificate=certificate) as client:
            extensions = {"target": target.encode("latin-1")}
            request = client.build_request(
                method, "/", headers=[("host", host), *listed], content=content, extensions=extensions
            )
            return client.send(request)

    def call(
        self, method: str, body: bytes, metadata: Sequence[tuple[str, str]] = (), *, certificate: bool = True
    ) -> grpc.Call:
        """Make one unary gRPC call of raw bytes and return it ended."""
        with self.channel(certificate=certificate) as channel:
            call = channel.unary_unary(method).future(body, metadata=tuple(metadata), timeout=10)
            call.exception()
            return call

    def channel(self, *, certificate: bool = True) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(
            self.files.authority.certificate.read_bytes(),
            *(
                (self.files.caller.private_key.read_bytes(), self.files.caller.certificate.read_bytes())
                if certificate
                else ()
            ),
        )
        options = [
            ("grpc.default_authority", MODELS),
            ("grpc.ssl_target_name_override", "localhost"),
            ("grpc.enable_retries", 0),
        ]
        port = self.envoy.ports["edge" if certificate else "tokens"]
        return grpc.secure_channel(f"127.0.0.1:{port}", credentials, options)


def settings(
    made: Files,
    http: Upstream,
    grpc_: Upstream,
    name: str,
    *,
    workers: int = 1,
    keep: bool = False,
    timeout: str = "0.25s",
) -> EnvoySettings:
    """Return the settings of docker-compose.yml's Envoy with other places (and patience), nothing else."""
    models, lake = COMPOSE.upstreams
    return replace(
        COMPOSE,
        listeners=tuple(replace(each, address="127.0.0.1:0") for each in COMPOSE.listeners),
        upstreams=(
            replace(models, http=(http.address,), grpc=(grpc_.address,)),
            replace(lake, http=(http.address,)),
        ),
        authz=tuple(f"unix:{made.sockets}/{number}.sock" for number in range(workers)),
        authz_timeout=timeout,
        admin=f"unix:{made.sockets}/{name}.sock",
        certificate=str(made.server.certificate),
        private_key=str(made.server.private_key),
        client_ca=str(made.authority.certificate),
        access_log=str(made.directory / f"{name}.jsonl"),
        unsafe_keep_forged_headers=keep,
    )


@contextlib.contextmanager
def running(
    directory: Path, transport: str, *, workers: int = 1, forward: bool = False, timeout: str = "0.25s"
) -> Iterator[tuple[Edge, Edge]]:
    """Start one sidecar and two Envoys before it: the one that we generate, and one that keeps forged headers."""
    with (
        files(directory) as made,
        http_echo() as http,
        grpc_echo() as grpc_,
        Processes(directory / "logs") as processes,
    ):
        made.configure(transport, workers=workers, forward=forward)
        sockets = [made.sockets / f"{number}.sock" for number in range(workers)]
        sidecar = start_sidecar(processes, made.config, sockets)
        edges = [
            Edge(
                envoy.start(
                    processes,
                    directory,
                    settings(made, http, grpc_, name, workers=workers, keep=keep, timeout=timeout),
                    name=name,
                ),
                made,
                http,
                grpc_,
                sidecar,
            )
            for name, keep in (("envoy", False), ("bare", True))
        ]
        yield edges[0], edges[1]


def infer(model: str, rest: bytes = b"") -> bytes:
    """Return a ModelInferRequest that names `model` (field 1), then whatever follows."""
    name = model.encode()
    return b"\x0a" + bytes([len(name)]) + name + rest


def raw_input(size: int) -> bytes:
    """Return one raw_input_contents (field 7) of `size` zero bytes."""
    length, left = b"", size
    while left > 0x7F:
        length, left = length + bytes([left & 0x7F | 0x80]), left >> 7
    return b"\x3a" + length + bytes([left]) + bytes(size)
