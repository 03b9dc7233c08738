"""Checkpoints signed by Vault's Transit, against a stand-in for its client that answers as its API is documented."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ext_authz.audit.checkpoint import Checkpoint, SigningError, open_note, sign
from ext_authz.audit.ledger import Ledger
from ext_authz.audit.merkle import EMPTY_ROOT
from ext_authz.audit.signing import TransitSigner
from ext_authz.envelope.errors import KeyUnavailableError


class Transit:
    def __init__(self, kind="ed25519", pem=False):
        self.keys = [Ed25519PrivateKey.generate()]
        self.kind, self.pem, self.broken = kind, pem, None
        self.secrets = self
        self.transit = self

    def read_key(self, name, mount_point):
        assert (name, mount_point) == ("audit", "transit")
        if self.broken is not None:
            raise self.broken
        found = {}
        for number, key in enumerate(self.keys, 1):
            public = key.public_key()
            raw = base64.b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
            pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
            found[str(number)] = {"public_key": pem if self.pem else raw}
        return {"data": {"type": self.kind, "latest_version": len(self.keys), "keys": found}}

    def sign_data(self, name, hash_input, key_version, mount_point):
        if isinstance(self.broken, Exception):
            raise self.broken
        if self.broken is not None:
            return self.broken
        signature = self.keys[key_version - 1].sign(base64.b64decode(hash_input))
        return {"data": {"signature": f"vault:v{key_version}:{base64.b64encode(signature).decode()}"}}


@pytest.mark.parametrize("pem", [False, True])
def test_what_it_signs_opens_under_its_key(pem):
    signer = TransitSigner(Transit(pem=pem), "transit", "audit")
    head = Checkpoint("ext-authz/log", 0, EMPTY_ROOT)
    assert open_note(sign(head, signer), [signer.key]) == (head, signer.key)


def test_a_key_that_rotates_under_a_process_stays_the_one_it_began_with():
    transit = Transit()
    signer = TransitSigner(transit, "transit", "audit")
    transit.keys.append(Ed25519PrivateKey.generate())
    head = Checkpoint("ext-authz/log", 0, EMPTY_ROOT)
    assert open_note(sign(head, signer), [signer.key])[0] == head
    assert TransitSigner(transit, "transit", "audit").key != signer.key


@pytest.mark.parametrize(
    "answer",
    [
        OSError("away"),
        {"data": {"signature": "vault:v2:" + "A" * 86 + "=="}},
        {"data": {"signature": "vault:v1:" + "A" * 86 + "=="}},
        {"data": {"signature": "x"}},
        {"data": None},
        {},
    ],
)
def test_whatever_it_answers_the_log_goes_on_unsigned(answer):
    transit = Transit()
    signer = TransitSigner(transit, "transit", "audit")
    transit.broken = answer
    with pytest.raises(SigningError):
        sign(Checkpoint("ext-authz/log", 0, EMPTY_ROOT), signer)
    ledger = Ledger("log", signer)
    ledger.add(b"{}")
    assert ledger.checkpoint().note == ""
    assert ledger.failures == 1
    transit.broken = None
    assert ledger.checkpoint().note
    assert ledger.error == ""


def test_a_key_of_another_kind_or_out_of_reach_is_refused():
    with pytest.raises(KeyUnavailableError, match="not of the type `ed25519`"):
        TransitSigner(Transit(kind="ecdsa-p256"), "transit", "audit")
    transit = Transit()
    transit.broken = OSError("away")
    with pytest.raises(KeyUnavailableError, match="cannot be read"):
        TransitSigner(transit, "transit", "audit")
