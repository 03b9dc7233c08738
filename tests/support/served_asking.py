"""A served configuration whose tokens are asked about: the wait, the asking and an issuer on loopback, in one process."""

import os
from pathlib import Path
from typing import Any

from credentials import AUDIENCE
from issuer_server import CLIENT, CLUSTER_TOKEN, SECRET, IssuerServer
from running_service import CONFIGURATION
from served import Served

from ext_authz import config, wiring
from ext_authz.authn.asked import Answer, Answers
from ext_authz.authn.lasting import Lasting
from ext_authz.server.asking_issuers import IssuerAsker
from ext_authz.server.token_waits import TokenWaits
from ext_authz.state import EMPTY_STATE

OPAQUE, CLUSTER = "https://opaque.example", "https://kubernetes.default.svc.cluster.local"


def configuration(issuer: IssuerServer, more: str = "", also: str = "", cluster: str = "") -> str:
    """The usual configuration with the issuer as introspection endpoint, and with `cluster` (keys) as API server too."""
    entry = f"issuer: '{OPAQUE}', audiences: [{AUDIENCE}], url: '{issuer.address}/introspect', client_id: '{CLIENT}', client_secret: '{SECRET}'"
    text = f"  introspection: [{{{entry}{more}}}]\n"
    if cluster:
        text += (
            f"  token_review: {{issuer: '{CLUSTER}', audiences: [{AUDIENCE}], url: '{issuer.address}', token_file: cluster.token, "
            f"subject_prefix: 'k8s-'{cluster}}}\n"
        )
    return CONFIGURATION.replace("  api_keys:", f"{text}{also}  api_keys:")


class ServedAsking(Served):
    def __init__(self, folder: Path, transport: str, text: str, state: Any = EMPTY_STATE, **waits: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cluster.token").write_text(CLUSTER_TOKEN + "\n")
        super().__init__(folder, transport, text, state)
        self.answers = Answers()
        inputs = config.load_inputs(folder / "ext-authz.yaml", os.environ)
        self.asker = IssuerAsker(inputs.settings.identity.asked, self._arrived)
        self.waits = TokenWaits(
            lambda each: self.asker.question(each.issuer, each.key, each.token, each.known), **waits
        )
        self.waits.start()
        self.service._token_waits = self.waits
        self.service.snapshot = wiring.build(inputs, lasting=Lasting(answers=self.answers))

    def _arrived(self, key: str, answer: Answer) -> None:
        self.answers.put(*Answer.from_bytes(answer.to_bytes(key)))
        self.waits.arrived(key)

    def token(self, text: str, **more: Any) -> Any:
        return self.check({"authorization": f"Bearer {text}"}, **more)

    def close(self) -> None:
        self.asker.stop()
        self.waits.stop()
        super().close()
