"""What a token costs a check: none, one seen before, one never seen; beside OPA's `io.jwt.decode_verify`.

`python benchmarks/identity.py [--opa BINARY] [--distinct N]`: BINARY is OPA (`go install
github.com/open-policy-agent/opa@latest`), measured by its own `opa bench` with and without the verification. One process,
CPU time, kinds in turn, best of several rounds. Then N distinct tokens go through one authenticator (one million unless said
otherwise) to see what it remembers. Exit status 1 when an aim is missed: a token seen before costs at most 5 µs more than
none, and memory stays within 64 MiB. See benchmarks/README.md.
"""

import argparse
import datetime
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

ROUNDS = 9
CALLS = 2_000
FRESH = 150
AIM_CACHED_US = 5.0
AIM_MEMORY_MIB = 64
ISSUER = "https://idp.example"
CALLER = "spiffe://ml.example/ns/apps/sa/scorer"
SECRET = b"a-secret-of-forty-bytes-for-benchmarks--"
CONFIGURATION = f"""\
identity:
  mtls: {{trust_domains: [ml.example]}}
  jwt:
  - {{issuer: '{ISSUER}', audiences: [ml], jwks_file: jwks.json}}
  - {{issuer: '{ISSUER}/hmac', audiences: [ml], hmac_secret_file: secret, subject_prefix: h-}}
resources: {{routes: [{{host: models.internal, protocol: open-inference}}]}}
policies: {{files: [policies.yaml]}}
"""
POLICY = """\
policies:
- {id: all, subjects: [{any: true}], resources: [{type: model}], actions: [infer]}
"""
REGO = """\
package authz

default plain := false
plain if input.path == "/v2/models/fraud/infer"

default verified := false
verified if {
	[valid, _, payload] := io.jwt.decode_verify(input.token, {"cert": data.jwks, "iss": "https://idp.example", "aud": "ml"})
	valid
	payload.sub != ""
	input.path == "/v2/models/fraud/infer"
}
"""


def claims(number: int, **more: Any) -> dict[str, Any]:
    now = int(time.time())
    return {"iss": ISSUER, "aud": "ml", "sub": f"user-{number}", "iat": now, "exp": now + 3600, **more}


def request(token: str | None) -> bytes:
    """One CheckRequest, by certificate alone or with a token on top."""
    from ext_authz._pb import external_auth_pb2

    message = external_auth_pb2.CheckRequest()
    attributes = message.attributes
    attributes.source.address.socket_address.address = "10.1.2.3"
    attributes.source.principal = CALLER
    attributes.request.time.FromDatetime(datetime.datetime.now(datetime.UTC))
    http = attributes.request.http
    http.method, http.path, http.host, http.scheme = "POST", "/v2/models/fraud/infer", "models.internal", "https"
    lines = {"accept": "*/*", "user-agent": "bench", "x-request-id": "5f1c2f3e-8f9d-4a55-9a37-7f8a2f3f1f10"}
    for name, value in {**lines, **({} if token is None else {"authorization": f"Bearer {token}"})}.items():
        http.header_map.headers.add(key=name, raw_value=value.encode())
    return message.SerializeToString()


def best(kinds: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Return the least CPU time of each kind in µs a call; each callable returns how many calls it made."""
    found = dict.fromkeys(kinds, float("inf"))
    for _ in range(ROUNDS):
        for name, run in kinds.items():
            began = time.process_time_ns()
            calls = run()
            found[name] = min(found[name], (time.process_time_ns() - began) / calls / 1000)
    return found


def checks(folder: Path, key: rsa.RSAPrivateKey) -> dict[str, float]:
    """Whole checks (reading, identity, decision, answer) of one caller, without transport and trail."""
    from ext_authz import request as reading
    from ext_authz import response, wiring
    from ext_authz.check import check
    from ext_authz.state import EMPTY_STATE

    _, snapshot = wiring.load(folder / "ext-authz.yaml", {})

    def one(data: bytes) -> None:
        facts = reading.read(data, snapshot.header_names, snapshot.headers.injectable)
        outcome = check(facts, snapshot, EMPTY_STATE, "0" * 32, time.time_ns())  # type: ignore[arg-type]
        assert outcome.decision.allowed, outcome.refusal
        response.write(outcome)

    def many(data: bytes) -> Callable[[], int]:
        def run() -> int:
            for _ in range(CALLS):
                one(data)
            return CALLS

        return run

    def sign(number: int) -> bytes:
        return request(jwt.encode(claims(number), key, "RS256", headers={"kid": "k1"}))

    fresh = iter([sign(number) for number in range(FRESH * ROUNDS)])

    def first() -> int:
        for _ in range(FRESH):
            one(next(fresh))
        return FRESH

    kinds = {"no token": many(request(None)), "token seen before": many(sign(-1)), "token never seen": first}
    return best(kinds)


def opa(binary: str, folder: Path, token: str) -> dict[str, float]:
    """OPA's own measurement of one decision in µs, without its server."""
    (folder / "policy.rego").write_text(REGO)
    (folder / "data.json").write_text(json.dumps({"jwks": (folder / "jwks.json").read_text()}))
    (folder / "input.json").write_text(json.dumps({"path": "/v2/models/fraud/infer", "token": token}))
    found = {}
    for name in ("plain", "verified"):
        command = [binary, "bench", "-d", "policy.rego", "-d", "data.json", "-i", "input.json", "--format", "json",
                   "--count", "3", f"data.authz.{name} == true"]  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, check=True)
        decoder, text, runs = json.JSONDecoder(), done.stdout.decode().strip(), []
        while text:
            value, end = decoder.raw_decode(text)
            runs += value if isinstance(value, list) else [value]
            text = text[end:].strip()
        found[name] = min(each["T"] / each["N"] for each in runs) / 1000
    return found


def remembered(folder: Path, count: int) -> tuple[float, float]:
    """Return by how many MiB `count` distinct tokens made the process grow, and the µs that each took."""
    from ext_authz import request as reading
    from ext_authz import wiring
    from ext_authz.state import EMPTY_STATE

    _, snapshot = wiring.load(folder / "ext-authz.yaml", {})
    facts = reading.read(request(None), snapshot.header_names, snapshot.headers.injectable)
    chain = snapshot.authenticators
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        token = jwt.encode(claims(number, iss=f"{ISSUER}/hmac"), SECRET, "HS256")
        facts.headers["authorization"] = (f"Bearer {token}",)  # type: ignore[union-attr, index]
        identity = chain.authenticate(facts, EMPTY_STATE, time.time_ns())  # type: ignore[arg-type]
        assert getattr(identity, "id", "") == f"sub:h-user-{number}", identity
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return grown, (time.process_time() - began) / count * 1e6


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opa", metavar="BINARY", help="OPA to measure beside")
    parser.add_argument("--distinct", type=int, default=1_000_000, metavar="N", help="tokens for the memory (1000000)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder, key = Path(name), rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": "k1", "use": "sig"}
        public.pop("key_ops", None)
        (folder / "jwks.json").write_text(json.dumps({"keys": [public]}))
        (folder / "secret").write_bytes(SECRET)
        (folder / "policies.yaml").write_text(POLICY)
        (folder / "ext-authz.yaml").write_text(CONFIGURATION)
        ours = checks(folder, key)
        for kind, cost in ours.items():
            print(f"{kind:20} {cost:8.1f} µs  {cost / ours['no token']:6.2f} times no token")
        cached = ours["token seen before"] - ours["no token"]
        fresh = ours["token never seen"] - ours["no token"]
        print(f"a token costs {cached:.1f} µs when it was seen before, {fresh:.1f} µs when not")
        if options.opa:
            token = jwt.encode(claims(0), key, "RS256", headers={"kid": "k1"})
            theirs = opa(options.opa, folder, token)
            cost = theirs["verified"] - theirs["plain"]
            print(
                f"OPA: {theirs['plain']:.1f} µs without, {theirs['verified']:.1f} µs with decode_verify: {cost:.1f} µs each time,"
            )
            print(
                f"  {cost / fresh:.2f} times ours for a new token, {cost / max(cached, 0.1):.1f} times ours for one seen before"
            )
        grown, each = remembered(folder, options.distinct)
        print(f"{options.distinct} distinct tokens: {grown:.1f} MiB more, {each:.0f} µs each (minting included)")
    return int(cached > AIM_CACHED_US or grown > AIM_MEMORY_MIB)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
