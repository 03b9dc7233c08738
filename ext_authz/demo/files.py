"""The demo's directory: certificates, keys, tokens and the sidecar's configuration.

Law: it writes only into a directory that is empty or bears its own mark, and
is free to remake everything there. Non-goal: a configuration for production.
"""

import contextlib
import datetime as dt
import fcntl
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from ext_authz.demo.pki import TRUST_DOMAIN, Authority, Pair, jwks, write_private

ISSUER: Final = "https://idp.demo.example"
AUDIENCE: Final = "ml-platform"
BALANCER: Final = "127.0.0.2"
"""The demo's load balancer: Envoy takes 127.0.0.1 for itself and would not append it to x-forwarded-for."""
CALLERS: Final = {"checkout": "payments/sa/checkout", "notebook": "research/sa/notebook"}
_MARK: Final = ".ext-authz-demo"
_MAX_SOCKET_PATH: Final = 107
_LONGEST_SOCKET: Final = "/admin.sock"


class DirectoryError(Exception):
    """The directory is not the demo's."""


class Issuer:
    """An identity provider: signs ES256 tokens, publishes one key."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._key_id = "demo-1"

    def jwks(self) -> str:
        """Return the public key set."""
        return jwks(self._key.public_key(), self._key_id)

    def token(
        self,
        subject: str,
        roles: Sequence[str],
        *,
        mfa: bool = False,
        org: str = "ml-example",
        issued: dt.datetime | None = None,
        lifetime: dt.timedelta = dt.timedelta(minutes=30),
        name: str = ISSUER,
    ) -> str:
        """Sign a token of the issuer `name` for `subject`; `issued` defaults to now."""
        at = issued or dt.datetime.now(dt.UTC)
        claims = {
            "iss": name,
            "aud": AUDIENCE,
            "sub": subject,
            "org": org,
            "roles": list(roles),
            "amr": ["pwd", "mfa"] if mfa else ["pwd"],
            "iat": int(at.timestamp()),
            "exp": int((at + lifetime).timestamp()),
            "jti": uuid.uuid4().hex,
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._key_id})


@dataclass(frozen=True, slots=True)
class Files:
    """Where everything is. `sockets` is short enough for Unix socket paths."""

    directory: Path
    sockets: Path
    authority: Authority
    server: Pair
    callers: dict[str, Pair]
    issuer: Issuer
    config: Path
    office_hours: Path
    events: Path
    logs: Path

    @property
    def authz_socket(self) -> Path:
        """The socket of the sidecar's only worker."""
        return self.sockets / "0.sock"


@contextlib.contextmanager
def prepare(directory: Path) -> Iterator[Files]:
    """Empty the demo's directory and write everything that does not depend on a port. Raises DirectoryError.

    The directory is locked until the context ends, and stays for its owner to read.
    """
    directory = directory.resolve()
    mark = directory / _MARK
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        if any(directory.iterdir()) and not mark.exists():
            raise DirectoryError(f"`{directory}` holds files that are not the demo's; name another directory")
        with mark.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DirectoryError(f"another demo runs in `{directory}`; name another directory") from None
            _empty(directory)
            made = _write(directory)
            try:
                yield made
            finally:
                if made.sockets.parent != directory:
                    shutil.rmtree(made.sockets, ignore_errors=True)
    except OSError as error:
        raise DirectoryError(f"`{directory}`: {error.strerror}") from error


def _empty(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _MARK:
            entry.unlink()


def _write(directory: Path) -> Files:
    authority = Authority(directory / "pki")
    issuer = Issuer()
    (directory / "jwks.json").write_text(issuer.jwks(), encoding="utf-8")
    sockets = _sockets(directory)
    events = directory / "events.jsonl"
    texts = {
        "ext-authz.yaml": _config(sockets, ["seed.yaml", "demo.yaml"], "run"),
        "office-hours.yaml": _config(sockets, ["seed.yaml"], "run-office-hours"),
    }
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    write_private(directory / "api-keys.yaml", b"keys: []\n")
    return Files(
        directory=directory,
        sockets=sockets,
        authority=authority,
        server=authority.server("server"),
        callers={name: authority.client(name, f"spiffe://{TRUST_DOMAIN}/ns/{path}") for name, path in CALLERS.items()},
        issuer=issuer,
        config=directory / "ext-authz.yaml",
        office_hours=directory / "office-hours.yaml",
        events=events,
        logs=directory / "logs",
    )


def policies() -> Path:
    """Return the folder of the example policies: beside the package in a clone, inside it in a wheel."""
    package = Path(__file__).resolve().parent
    installed = package / "data"
    return installed if installed.is_dir() else package.parents[1] / "policies"


def _sockets(directory: Path) -> Path:
    sockets = directory / "sockets"
    if len(f"{sockets}{_LONGEST_SOCKET}".encode()) > _MAX_SOCKET_PATH:
        return Path(tempfile.mkdtemp(prefix="ext-authz-"))
    sockets.mkdir(mode=0o750)
    return sockets


def _config(sockets: Path, policy_files: Sequence[str], run_dir: str) -> str:
    """Write the sidecar's configuration; strings are JSON, which is YAML."""
    folder = policies()

    def quoted(value: object) -> str:
        return json.dumps(str(value))

    files = ", ".join(quoted(folder / name) for name in policy_files)
    checkout = quoted(f"spiffe://{TRUST_DOMAIN}/ns/{CALLERS['checkout']}")
    return f"""\
# Written by `ext-authz demo`.
server:
  listen: [{quoted(f"unix:{sockets}/{{worker}}.sock")}]
  trusted_proxies: ["{BALANCER}/32"]   # the demo's load balancer; Envoy's xff_num_trusted_hops is 1
  drain: 2s
admin: {{listen: {quoted(f"unix:{sockets}/sidecar.sock")}}}
run_dir: {run_dir}
identity:
  mtls: {{trust_domains: [{TRUST_DOMAIN}], ca_bundle: pki/ca.pem}}
  jwt:
    - issuer: {ISSUER}
      audiences: [{AUDIENCE}]
      jwks_file: jwks.json
      algorithms: [ES256]
      claims: {{roles: roles, org: org}}
      mfa: {{amr: [mfa]}}
  api_keys: {{header: x-api-key, file: api-keys.yaml}}
  role_bindings:
    - {{role: fraud_caller, members: [{checkout}]}}
resources: {{files: [{quoted(folder / "resources" / "demo.yaml")}]}}
policies: {{files: [{files}]}}
audit:
  sinks: [{{type: file, path: events.jsonl}}]
"""
