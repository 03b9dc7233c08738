"""Signed notes, verifier keys and the ledger of one log."""

import base64
import hashlib

import pytest

from ext_authz.audit.checkpoint import (
    Checkpoint,
    NoteError,
    SigningError,
    VerifierKey,
    open_note,
    parse_keys,
    read_note,
    sign,
)
from ext_authz.audit.event import checkpoint_event
from ext_authz.audit.ledger import Ledger
from ext_authz.audit.merkle import EMPTY_ROOT, Range, leaf_hash
from ext_authz.audit.signing import FileSigner, open_signer
from ext_authz.envelope.errors import KeyUnavailableError
from ext_authz.envelope.keys import parse_reference

# From the C2SP signed-note specification and golang.org/x/mod/sumdb/note's documentation.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETERS_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


@pytest.fixture
def signer(tmp_path):
    return FileSigner.ensure(tmp_path / "audit-signing.key")


class Broken:
    def __init__(self, signer):
        self.key = signer.key
        self.good = signer
        self.fails = True

    def sign(self, message):
        if self.fails:
            raise SigningError("the vault is sealed")
        return self.good.sign(message)


def test_the_published_key_has_its_published_id_and_verifies_its_published_signature():
    key = VerifierKey.parse(PETER)
    assert str(key) == PETER
    text, _, rest = PETERS_NOTE.rpartition("\n\n")
    signature = base64.b64decode(rest.split()[-1])
    assert signature[:4] == key.id
    assert key.verifies(text.encode() + b"\n", signature[4:])
    assert not key.verifies(text.encode(), signature[4:])


def test_the_key_id_is_the_hash_of_name_newline_type_and_key():
    key = VerifierKey("example.org/log", bytes(range(32)))
    assert key.id == hashlib.sha256(b"example.org/log\n\x01" + bytes(range(32))).digest()[:4]


@pytest.mark.parametrize(
    "text",
    ["", "a", "a+b", PETER[:-4], PETER.replace("c74f", "c74e"), PETER.replace("+AR", "+AB"), PETER.replace("Peter", "Pe ter"),
     PETER.replace("PeterNeumann", ""), PETER.replace("c74f20a3", "C74F20A3"), PETER + "=="],
)  # fmt: skip
def test_what_is_no_verifier_key_is_refused(text):
    with pytest.raises(NoteError):
        VerifierKey.parse(text)


def test_a_file_of_keys_may_have_remarks_and_several_keys(signer):
    assert parse_keys(f"# old\n{PETER}\n\n{signer.key}\n") == [VerifierKey.parse(PETER), signer.key]
    with pytest.raises(NoteError, match="no verifier key"):
        parse_keys("# nothing\n\n")


def test_a_note_opens_under_its_key_and_under_no_other(signer):
    head = Checkpoint("ext-authz/log", 3, hashlib.sha256(b"x").digest())
    note = sign(head, signer)
    assert note.startswith("ext-authz/log\n3\n")
    assert open_note(note, [VerifierKey.parse(PETER), signer.key]) == (head, signer.key)
    with pytest.raises(NoteError, match="none of the trusted keys"):
        open_note(note, [VerifierKey.parse(PETER)])
    with pytest.raises(NoteError, match="none of the trusted keys"):
        open_note(note, [VerifierKey(signer.key.name, bytes(32))])
    with pytest.raises(NoteError, match="none of the trusted keys"):
        open_note(note, [VerifierKey("other", signer.key.public)])


def test_a_further_signature_by_somebody_else_is_passed_over_and_a_bad_one_of_ours_is_not(signer):
    note = sign(Checkpoint("ext-authz/log", 3, EMPTY_ROOT), signer)
    witness = "\u2014 witness.example " + base64.b64encode(b"abcd" + bytes(72)).decode() + "\n"
    assert open_note(note + witness, [signer.key])[1] == signer.key
    forged = f"\u2014 {signer.key.name} " + base64.b64encode(signer.key.id + bytes(64)).decode() + "\n"
    with pytest.raises(NoteError, match="not that key's"):
        open_note(note + forged, [signer.key])


@pytest.mark.parametrize("old", ["\n3\n", "ext-authz/log"])
def test_a_changed_text_is_refused(signer, old):
    note = sign(Checkpoint("ext-authz/log", 3, EMPTY_ROOT), signer)
    with pytest.raises(NoteError, match="not that key's"):
        open_note(note.replace(old, "\n4\n" if "3" in old else "ext-authz/lof"), [signer.key])


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n[:-1],
        lambda n: n.replace("\u2014", "-"),
        lambda n: n.replace("\n3\n", "\n03\n"),
        lambda n: n.replace("\n3\n", "\n-3\n"),
        lambda n: n.replace("\n3\n", "\n3 \n"),
        lambda n: n.replace("\n3\n", "\n\u0663\n"),
        lambda n: n.replace("\n3\n", "\n99999999999999999999\n"),
        lambda n: n.replace("\n3\n", "\n\r3\n"),
        lambda n: n.replace("\n\n", "\n"),
        lambda n: "",
        lambda n: n.replace("47DEQp", "47DEQ"),
        lambda n: n + "\n",
        lambda n: n + "\u2014 x YQ==\n",
        lambda n: n + "\u2014 x AAAAAAAA\n" * 120,
        lambda n: n.replace("ext-authz/log", "a" * 100_000),
        lambda n: n.replace("ext-authz/log", "a\ud800"),
    ],
)
def test_what_is_no_checkpoint_is_refused(signer, change):
    note = sign(Checkpoint("ext-authz/log", 3, EMPTY_ROOT), signer)
    assert change(note) != note
    with pytest.raises(NoteError):
        read_note(change(note))


def test_a_ledgers_checkpoints_say_what_was_added_and_a_failing_signer_stops_nothing(signer):
    now = [0.0]
    broken = Broken(signer)
    ledger = Ledger("log", broken, clock=lambda: now[0], every_events=4, every_seconds=10)
    assert ledger.due()
    unsigned = ledger.checkpoint()
    assert (unsigned.note, unsigned.number, unsigned.checkpoint.size, ledger.failures) == ("", 0, 0, 1)
    assert ledger.error == "the vault is sealed"
    assert not ledger.due()
    broken.fails = False
    now[0] = 1.0
    assert ledger.due()
    assert ledger.checkpoint().checkpoint.root == EMPTY_ROOT
    tree = Range()
    for number in range(4):
        assert not ledger.due()
        ledger.add(b"%d" % number)
        tree.append(leaf_hash(b"%d" % number))
    assert ledger.due()
    signed = ledger.checkpoint()
    assert open_note(signed.note, [signer.key])[0] == Checkpoint("ext-authz/log", 4, tree.root())
    assert (signed.number, signed.nodes) == (2, tree.nodes)
    assert not ledger.due()
    now[0] = 11.0
    assert ledger.due()


def test_the_event_of_a_checkpoint_is_under_the_schema(signer):
    import orjson
    from jsonschema import Draft202012Validator

    from ext_authz.tools.schemas import audit_schema

    ledger = Ledger("w-1", signer)
    ledger.add(b"{}")
    line = checkpoint_event(ledger.checkpoint(), cause="interval", seq=1, now_ns=0)
    event = orjson.loads(line)
    Draft202012Validator(audit_schema()).validate(event)
    assert event["event_id"] == "w-1:c0"
    assert event["root"] == leaf_hash(b"{}").hex()
    assert open_note(event["note"], [VerifierKey.parse(event["key"])])[0].size == 1


def test_the_key_is_made_once_for_its_user_alone_with_the_public_one_beside_it(tmp_path, signer):
    path = tmp_path / "audit-signing.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert FileSigner.ensure(path).key == signer.key
    assert parse_keys((tmp_path / "audit-signing.key.pub").read_text()) == [signer.key]
    path.chmod(0o640)
    with pytest.raises(KeyUnavailableError, match="chmod 600"):
        FileSigner.ensure(path)


def test_what_is_no_signing_key_is_refused(tmp_path):
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    path = tmp_path / "key"
    path.write_bytes(generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(KeyUnavailableError, match="not an Ed25519 key"):
        FileSigner.load(path)
    path.write_text("hello")
    with pytest.raises(KeyUnavailableError, match="not an unencrypted private key"):
        FileSigner.load(path)
    with pytest.raises(KeyUnavailableError, match="no such file"):
        open_signer(parse_reference(f"file:{tmp_path}/none"), {})
    with pytest.raises(KeyUnavailableError, match="only"):
        open_signer(parse_reference("awskms:alias/x"), {})
