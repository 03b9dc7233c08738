"""A service behind a real transport in this process, whose configuration knows issuers of tokens; checks are calls."""

import json
import time
from pathlib import Path
from typing import Any

import credentials as made
import grpc
import running_service
from wire_requests import Reply, check_request, read_reply

from ext_authz.server.service import METHOD
from ext_authz.server.transport import ListenOptions, open_transport
from ext_authz.state import EMPTY_STATE

TRANSPORTS = ("grpcio", "native")
POLICIES = """\
policies:
- id: everybody
  subjects: [{any: true}]
  resources: [{type: model}]
  actions: [infer]
- id: deploying
  subjects: [{any: true}]
  resources: [{type: model}]
  actions: [deploy_model]
  conditions: [{audit_logged: true}]
"""


def configuration(*entries: str, more: str = "") -> str:
    """The usual configuration with issuers of tokens: flow mappings of `identity.jwt` less issuer, audience, keys."""
    usual = f"issuer: '{made.ISSUER}', audiences: [{made.AUDIENCE}], jwks_file: jwks.json"
    listed = "".join(
        f"  - {{{entry if 'issuer:' in entry else ', '.join(filter(None, (usual, entry)))}}}\n" for entry in entries
    )
    return running_service.CONFIGURATION.replace("  api_keys:", f"  jwt:\n{listed}  api_keys:") + more


def token(**claims: Any) -> str:
    """A good token of the usual issuer by the real clock."""
    now = int(time.time())
    return made.token(made.claims(**{"iat": now - 5, "exp": now + 600, **claims}))


class Served:
    """`check` returns what the caller gets and the event that the trail has of it."""

    def __init__(self, folder: Path, transport: str, text: str, state: Any = EMPTY_STATE, **service: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "jwks.json").write_bytes(made.jwks(made.jwk(made.rsa_key(), kid="rsa-0")))
        self.running = running_service.start(folder, state, service, configuration=text, policies=POLICIES)
        self.service = self.running.service
        address = f"unix:{folder}/t.sock"
        self._transport = open_transport(transport, self.service, ListenOptions((address,), 2**20))
        self._transport.start()
        self._channel = grpc.insecure_channel(address)
        self._call = self._channel.unary_unary(METHOD)

    def send(self, message: bytes) -> tuple[Reply, dict[str, Any]]:
        reply = read_reply(self._call(message, timeout=20))
        decision = reply.headers["x-authz-decision-id"]
        return reply, next(each for each in self.running.events() if each["decision_id"] == decision)

    def fire(self, message: bytes) -> Reply:
        """Send without looking for the event."""
        return read_reply(self._call(message, timeout=20))

    def check(
        self, headers: Any = (), path: str = "/v2/models/fraud/infer", **more: Any
    ) -> tuple[Reply, dict[str, Any]]:
        return self.send(check_request(more.pop("method", "POST"), path, headers=headers, **more))

    def trail(self) -> str:
        return json.dumps(self.running.events())

    def close(self) -> None:
        self._channel.close()
        self._transport.stop(1)
        self.running.close()


def refused(answer: tuple[Reply, dict[str, Any]], reason: str, detail: str = "") -> None:
    """Assert a 401 for `reason`, told to the caller and on record, with `detail` on record only."""
    reply, event = answer
    assert not reply.allowed
    assert (reply.http_status, reply.reason, event["reason"], event["decision"]) == (401, reason, reason, "deny")
    assert reply.headers["www-authenticate"]
    if detail:
        assert event["detail"] == detail
        assert detail not in reply.body
