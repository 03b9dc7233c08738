"""Proofs of single events: made from the trail, checked with the public key alone."""

import base64

import pytest
from altered import SIGNER, add, copied, event, files, flip, verified, write
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from trails import lines, new_spool, open_key

from ext_authz.audit.checkpoint import Checkpoint, sign
from ext_authz.audit.proof import ProofError, Proven, check, prove
from ext_authz.audit.signing import FileSigner


@pytest.fixture(scope="module")
def trail(tmp_path_factory):
    return write(tmp_path_factory.mktemp("proofs") / "audit", 50, 60, 70)


@pytest.fixture(scope="module")
def log_id(trail):
    return verified(trail).logs[0].log


def proven(trail, wanted):
    return prove([trail], wanted, open_key, [SIGNER.key])


@pytest.mark.parametrize("seq", [0, 1, 50, 51, 110, 111, 179, 180])
def test_every_event_is_proven_to_who_has_the_key_alone(trail, log_id, seq):
    text = proven(trail, f"{log_id}:{seq}").text()
    found, head, key = check(Proven.parse(text), [SIGNER.key])
    assert found["event_id"] == f"{log_id}:{seq}"
    assert head.log_id == log_id
    assert head.size > seq
    assert key == SIGNER.key


def test_a_decision_id_finds_its_event(trail, log_id):
    decision_id = f"{log_id[:8]}{77:024x}"
    found = check(proven(trail, decision_id), [SIGNER.key])[0]
    assert (found["seq"], found["decision_id"]) == (77, decision_id)


def test_the_file_is_laid_out_as_c2sp_has_it_and_holds_no_other_event(trail, log_id):
    text = proven(trail, f"{log_id}:60").text()
    head, _, note = text.partition("\n\n")
    first, extra, index, *hashes = head.split("\n")
    assert first == "c2sp.org/tlog-proof@v1"
    assert base64.b64decode(extra.removeprefix("extra ")) == lines(trail)[60]
    assert index == "index 60"
    assert all(len(base64.b64decode(each)) == 32 for each in hashes)
    assert note.startswith(f"ext-authz/{log_id}\n")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_character_of_a_proof_can_be_changed_unseen(trail, log_id, data):
    text = proven(trail, f"{log_id}:60").text()
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.sampled_from("AB0 \n+=\u2014")) + text[at + 1 :]
    if changed == text:
        return
    with pytest.raises(ProofError):
        check(Proven.parse(changed), [SIGNER.key])


def test_a_proof_by_another_key_or_for_another_place_proves_nothing(trail, log_id):
    good = proven(trail, f"{log_id}:60")
    with pytest.raises(ProofError, match="none of the trusted keys"):
        check(good, [FileSigner(Ed25519PrivateKey.generate()).key])
    other = proven(trail, f"{log_id}:61")
    for wrong in (
        Proven(other.line, good.index, good.hashes, good.note),
        Proven(good.line, other.index, good.hashes, good.note),
        Proven(good.line, good.index, other.hashes, good.note),
        Proven(good.line, good.index, (), good.note),
    ):
        with pytest.raises(ProofError, match="not in the tree"):
            check(wrong, [SIGNER.key])


def test_a_leaf_that_says_it_is_another_event_proves_nothing():
    """A log that holds a copy of another log's event at another place."""
    from ext_authz.audit.merkle import leaf_hash

    line = event("worker-0-20261123T000000Z-0000000000000000", 7)
    note = sign(Checkpoint("ext-authz/other", 1, leaf_hash(line)), SIGNER)
    with pytest.raises(ProofError, match="not the event that it says"):
        check(Proven(line, 0, (), note), [SIGNER.key])


def test_an_event_of_a_later_segment_is_proven_though_the_earlier_ones_are_gone(trail, log_id, tmp_path):
    folder = copied(trail, tmp_path / "audit")
    for path in files(folder)[:2]:
        path.unlink()
    for seq in (111, 150, 180):
        assert check(proven(folder, f"{log_id}:{seq}"), [SIGNER.key])[0]["seq"] == seq
    with pytest.raises(ProofError, match="not here any more"):
        proven(folder, f"{log_id}:60")


def test_what_cannot_be_proven_is_said(trail, log_id, tmp_path):
    with pytest.raises(ProofError, match="no event here has the id"):
        proven(trail, "0" * 32)
    with pytest.raises(ProofError, match="there is no log"):
        proven(trail, "worker-0-20261123T000000Z-0000000000000000:1")
    with pytest.raises(ProofError, match="no signed checkpoint covers"):
        proven(trail, f"{log_id}:181")
    spool = new_spool(tmp_path)
    spool.check()
    add(spool, 3)
    with pytest.raises(ProofError, match="no signed checkpoint covers event 2 yet"):
        proven(tmp_path, f"{spool.log_id}:2")
    spool.close()
    assert check(proven(tmp_path, f"{spool.log_id}:2"), [SIGNER.key])[0]["seq"] == 2


def test_an_altered_trail_proves_nothing(trail, log_id, tmp_path):
    folder = copied(trail, tmp_path / "audit")
    flip(files(folder)[1], 5000)
    with pytest.raises(ProofError):
        proven(folder, f"{log_id}:60")


@pytest.mark.parametrize(
    "text", ["", "x", "c2sp.org/tlog-proof@v1\nindex 0\n\nx", "c2sp.org/tlog-proof@v1\nextra e30=\nindex 00\n\nx\n"]
)
def test_what_is_no_proof_is_refused(text):
    with pytest.raises(ProofError):
        Proven.parse(text)
