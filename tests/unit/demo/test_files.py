"""The demo's directory: its own or none, private keys private, sockets where their paths fit."""

import os
import stat

import jwt
import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from ext_authz import wiring
from ext_authz.demo import files
from ext_authz.demo.files import DirectoryError, Issuer, prepare
from ext_authz.demo.pki import Authority


def test_everything_in_it_loads(tmp_path):
    with prepare(tmp_path / "demo") as made:
        inputs, snapshot = wiring.load(made.config, os.environ)
        assert inputs.settings.server.addresses() == (f"unix:{made.authz_socket}",)
        assert "x-authz-subject" in snapshot.headers.injectable
        wiring.load(made.office_hours, os.environ)


def test_the_seeds_policies_are_loaded_word_for_word(tmp_path):
    with prepare(tmp_path / "demo") as made:
        inputs, _ = wiring.load(made.config, os.environ)
    assert [name.rpartition("/")[2] for name in inputs.policy_files] == ["demo.yaml", "seed.yaml"] or [
        name.rpartition("/")[2] for name in inputs.policy_files
    ] == ["seed.yaml", "demo.yaml"]


def test_secrets_are_readable_by_their_owner_alone(tmp_path):
    with prepare(tmp_path / "demo") as made:
        secret = [*made.directory.rglob("*.key"), made.directory / "api-keys.yaml"]
        assert len(secret) == 4
        assert {stat.S_IMODE(each.stat().st_mode) for each in secret} == {0o600}
        assert stat.S_IMODE(made.sockets.stat().st_mode) & 0o007 == 0


def test_a_directory_of_somebody_elses_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DirectoryError, match="not the demo's"), prepare(tmp_path):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_a_link_points_at_is_left_alone(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.txt").write_text("mine")
    with prepare(tmp_path / "demo") as made:
        (made.directory / "link").symlink_to(outside)
    with prepare(tmp_path / "demo") as made:
        assert not (made.directory / "link").exists()
    assert (outside / "thesis.txt").read_text() == "mine"


def test_two_demos_do_not_share_a_directory(tmp_path):
    with (
        prepare(tmp_path / "demo"),
        pytest.raises(DirectoryError, match="another demo runs in"),
        prepare(tmp_path / "demo"),
    ):
        pass


def test_a_path_that_cannot_be_a_directory_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DirectoryError) as caught, prepare(tmp_path / "file" / "demo"):
        pass
    assert "\n" not in str(caught.value)


def test_sockets_of_a_deep_directory_stand_elsewhere_and_are_removed(tmp_path):
    with prepare(tmp_path / ("d" * 100)) as made:
        assert made.sockets.parent != made.directory
        assert len(str(made.authz_socket)) < 100
        assert made.sockets.is_dir()
        assert stat.S_IMODE(made.sockets.stat().st_mode) == 0o700
    assert not made.sockets.exists()


def test_a_clients_certificate_holds_before_a_strict_verifier(tmp_path):
    authority = Authority(tmp_path)
    pair = authority.client("a", "spiffe://ml.example/ns/a/sa/b")
    root = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    leaf = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    verified = PolicyBuilder().store(Store([root])).build_client_verifier().verify(leaf, [])
    assert verified.subjects == [x509.UniformResourceIdentifier("spiffe://ml.example/ns/a/sa/b")]


def test_tokens_verify_with_the_published_key_alone():
    issuer = Issuer()
    token = issuer.token("alice", ["r"], mfa=True)
    key = jwt.PyJWKSet.from_json(issuer.jwks()).keys[0].key
    claims = jwt.decode(token, key, algorithms=["ES256"], audience=files.AUDIENCE, issuer=files.ISSUER)
    assert claims["amr"] == ["pwd", "mfa"]
    other = jwt.PyJWKSet.from_json(Issuer().jwks()).keys[0].key
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, other, algorithms=["ES256"], audience=files.AUDIENCE)
