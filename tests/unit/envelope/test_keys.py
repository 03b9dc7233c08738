"""Key providers: one contract for all of them, then what is each one's own."""

import os
import sys
from dataclasses import replace

import boto3
import fake_transit
import moto
import pytest
import softhsm
from envelopes import NAME, provider

from ext_authz.envelope.errors import AlteredError, KeyUnavailableError
from ext_authz.envelope.format import DataName
from ext_authz.envelope.keys import WrappedKey, open_key, parse_reference, pkcs11_process
from ext_authz.envelope.keys.awskms import KmsKey
from ext_authz.envelope.keys.memory import MemoryKey
from ext_authz.envelope.keys.vault import TransitKey

DATA_KEY = bytes(range(32))
OTHERS = [DataName("dataset", "other"), DataName("model", "clicks"), DataName("datasetc", "licks")]
LIVE = os.environ.get("EXT_AUTHZ_TEST_VAULT_KEY", "")


@pytest.fixture
def transit():
    with fake_transit.running() as running:
        yield running


def vault(transit, key="ml-data", mount="transit", token=fake_transit.TOKEN):
    return TransitKey.connect(mount, key, {"VAULT_ADDR": transit.address, "VAULT_TOKEN": token})


@pytest.fixture
def aws(monkeypatch):
    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "eu-central-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with moto.mock_aws():
        yield boto3.client("kms")


def kms_key(client):
    return client.create_key()["KeyMetadata"]["Arn"]


@pytest.fixture(params=["file", "memory", "vault", "awskms", "pkcs11", "live vault"])
def keys(request):
    """The key under test, and another of its kind."""
    match request.param:
        case "file":
            yield provider(), provider(fill=9)
        case "memory":
            yield MemoryKey("one"), MemoryKey("two")
        case "vault":
            transit = request.getfixturevalue("transit")
            yield vault(transit), vault(transit, mount="kms/prod")
        case "awskms":
            client = request.getfixturevalue("aws")
            yield KmsKey.connect(kms_key(client)), KmsKey.connect(kms_key(client))
        case "pkcs11":
            token = softhsm.Token(request.getfixturevalue("tmp_path"))
            for name in ("one", "two"):
                token.key(name)
            one, two = (parse_reference(token.uri(name)) for name in ("one", "two"))
            yield open_key(one, token.environment), open_key(two, token.environment)
        case _:
            if not LIVE:
                pytest.skip("EXT_AUTHZ_TEST_VAULT_KEY names no key of a running Vault")
            yield open_key(parse_reference(f"vault:{LIVE}"), os.environ), provider()


def test_what_is_wrapped_is_unwrapped_under_the_same_name(keys):
    key, _ = keys
    wrapped = key.wrap(DATA_KEY, NAME.context)
    assert DATA_KEY not in wrapped.blob
    assert key.unwrap(wrapped, NAME.context) == DATA_KEY


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_another_name_does_not_unwrap(keys, other):
    key, _ = keys
    with pytest.raises(AlteredError):
        key.unwrap(key.wrap(DATA_KEY, NAME.context), other.context)


def test_an_altered_wrapped_key_does_not_unwrap(keys):
    key, _ = keys
    wrapped = key.wrap(DATA_KEY, NAME.context)
    last = wrapped.blob[-4]
    changed = wrapped.blob[:-4] + (b"A" if last != ord("A") else b"B") + wrapped.blob[-3:]
    for blob in (changed, wrapped.blob[:-4], b"", b"\0" * 60):
        with pytest.raises((AlteredError, KeyUnavailableError)):
            key.unwrap(replace(wrapped, blob=blob), NAME.context)


def test_another_key_does_not_unwrap_and_the_message_names_both(keys):
    key, other = keys
    wrapped = key.wrap(DATA_KEY, NAME.context)
    with pytest.raises((AlteredError, KeyUnavailableError)) as refused:
        other.unwrap(wrapped, NAME.context)
    assert DATA_KEY.hex() not in str(refused.value)


def test_what_another_provider_wrapped_is_refused(keys):
    key, _ = keys
    wrapped = key.wrap(DATA_KEY, NAME.context)
    with pytest.raises(KeyUnavailableError, match="wrapped by `elsewhere:"):
        key.unwrap(replace(wrapped, provider="elsewhere"), NAME.context)


def test_older_versions_of_a_keyring_open_and_the_newest_wraps():
    old = provider(versions=1).wrap(DATA_KEY, NAME.context)
    ring = provider(versions=3)
    assert ring.unwrap(old, NAME.context) == DATA_KEY
    assert ring.wrap(DATA_KEY, NAME.context).key_version == "3"


@pytest.mark.parametrize("version", ["2", "0", "01", "-1", "", "x", "9" * 30])
def test_a_version_that_the_keyring_has_not_is_said(version):
    ring = provider()
    wrapped = replace(ring.wrap(DATA_KEY, NAME.context), key_version=version)
    with pytest.raises(KeyUnavailableError, match="has no such version"):
        ring.unwrap(wrapped, NAME.context)


def test_a_wrapped_key_moved_to_another_version_does_not_open():
    wrapped = replace(provider(versions=2).wrap(DATA_KEY, NAME.context), key_version="1")
    with pytest.raises(AlteredError):
        provider(versions=2).unwrap(wrapped, NAME.context)


def test_vault_gets_type_and_id_as_associated_data_and_rotates(transit):
    key = vault(transit)
    old = key.wrap(DATA_KEY, NAME.context)
    transit.keys["transit", "ml-data"].append(os.urandom(32))
    new = key.wrap(DATA_KEY, NAME.context)
    assert (old.key_id, old.key_version, new.key_version) == ("transit/ml-data", "1", "2")
    assert key.unwrap(old, NAME.context) == key.unwrap(new, NAME.context) == DATA_KEY
    paths = {path for path, _, _ in transit.requests}
    assert paths == {"/v1/transit/encrypt/ml-data", "/v1/transit/decrypt/ml-data"}
    assert all(body["associated_data"] for _, _, body in transit.requests)


def test_a_version_that_vault_retired_is_said_and_is_no_alteration(transit):
    key = vault(transit)
    old = key.wrap(DATA_KEY, NAME.context)
    transit.keys["transit", "ml-data"].append(os.urandom(32))
    transit.minimum = 2
    with pytest.raises(KeyUnavailableError, match="too old"):
        key.unwrap(old, NAME.context)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token": "wrong"}, "permission denied"),
        ({"key": "no-such-key"}, "encryption key not found"),
        ({"mount": "no-such-mount"}, "encryption key not found"),
    ],
)
def test_what_vault_refuses_is_said_in_its_words_and_without_the_token(transit, change, message):
    with pytest.raises(KeyUnavailableError, match=message) as refused:
        vault(transit, **change).wrap(DATA_KEY, NAME.context)
    assert "\n" not in str(refused.value)
    assert "wrong" not in str(refused.value)


@pytest.mark.parametrize(
    "answer",
    [
        (500, {"errors": ["\x1b[31mred"]}),
        (503, {}),
        (200, {}),
        (200, {"data": {}}),
        (200, {"data": {"ciphertext": 7, "plaintext": 7}}),
        (200, {"data": {"ciphertext": "x", "plaintext": "?"}}),
        (200, []),
        (204, None),
    ],
    ids=str,
)
def test_no_answer_of_vault_gives_another_error(transit, answer):
    key = vault(transit)
    wrapped = key.wrap(DATA_KEY, NAME.context)
    transit.answer = answer
    for ask in (lambda: key.wrap(DATA_KEY, NAME.context), lambda: key.unwrap(wrapped, NAME.context)):
        with pytest.raises(KeyUnavailableError) as refused:
            ask()
        assert str(refused.value).isprintable()


def test_a_redirect_does_not_get_the_token(transit):
    with fake_transit.running() as elsewhere:
        transit.answer = 307, {"location": f"{elsewhere.address}/v1/transit/encrypt/ml-data"}
        with pytest.raises(KeyUnavailableError, match="redirect"):
            vault(transit).wrap(DATA_KEY, NAME.context)
        assert elsewhere.requests == []


def test_a_proxy_does_not_get_what_is_meant_for_this_machine(transit, monkeypatch):
    with fake_transit.running() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        monkeypatch.setenv("http_proxy", proxy.address)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert vault(transit).wrap(DATA_KEY, NAME.context).key_version == "1"
        assert proxy.requests == []


def test_a_vault_that_is_not_there_is_said():
    with fake_transit.running() as gone:
        key = vault(gone)
    with pytest.raises(KeyUnavailableError, match="no answer"):
        key.wrap(DATA_KEY, NAME.context)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", "is not set"),
        ("vault.example:8200", "is not an `https://` address"),
        ("ftp://vault.example", "is not an `https://` address"),
        ("http://vault.example:8200", "plain `http://` beyond this machine"),
        ("http://127.0.0.1.example:8200", "plain `http://` beyond this machine"),
        ("http://127.0.0.1@vault.example", "plain `http://` beyond this machine"),
    ],
)
def test_an_unsafe_vault_address_is_refused_before_anything_is_sent(address, message):
    with pytest.raises(KeyUnavailableError, match=message):
        TransitKey.connect("transit", "k", {"VAULT_ADDR": address, "VAULT_TOKEN": "t"})


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "https://v.example"])
def test_a_safe_vault_address_is_taken(address):
    assert TransitKey.connect("transit", "k", {"VAULT_ADDR": address, "VAULT_TOKEN": "t"}).id == "transit/k"


def test_without_a_vault_token_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VAULT_TOKEN", raising=False)
    with pytest.raises(KeyUnavailableError, match="no Vault token"):
        TransitKey.connect("transit", "k", {"VAULT_ADDR": "https://vault.example"})


def test_kms_gets_type_and_id_as_encryption_context(aws):
    arn = kms_key(aws)
    wrapped = KmsKey.connect(arn).wrap(DATA_KEY, NAME.context)
    assert (wrapped.provider, wrapped.key_id, wrapped.key_version) == ("awskms", arn, "")
    context = {"app": "ext-authz", "data_id": "clicks", "data_type": "dataset"}
    assert aws.decrypt(CiphertextBlob=wrapped.blob, EncryptionContext=context)["Plaintext"] == DATA_KEY


def test_an_alias_wraps_and_the_header_names_the_key_behind_it(aws):
    arn = kms_key(aws)
    aws.create_alias(AliasName="alias/ml-data", TargetKeyId=arn)
    wrapped = KmsKey.connect("alias/ml-data").wrap(DATA_KEY, NAME.context)
    assert wrapped.key_id == arn
    assert KmsKey.connect(arn).unwrap(wrapped, NAME.context) == DATA_KEY


def test_a_key_that_kms_has_not_is_said(aws):
    missing = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"
    with pytest.raises(KeyUnavailableError, match="NotFoundException"):
        KmsKey.connect(missing).wrap(DATA_KEY, NAME.context)


def test_kms_is_asked_for_the_key_that_the_user_named_and_not_for_the_files():
    asked = {}

    class Client:
        def decrypt(self, **parameters):
            asked.update(parameters)
            return {"Plaintext": DATA_KEY}

    KmsKey(Client(), "alias/mine").unwrap(WrappedKey("awskms", "arn:of:the:attacker", "", b"x"), NAME.context)
    assert asked["KeyId"] == "alias/mine"


def test_without_a_region_kms_is_not_reached_and_it_is_said(monkeypatch, tmp_path):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(KeyUnavailableError, match="region"):
        KmsKey.connect("alias/x")


@pytest.mark.parametrize(
    "text",
    ["file:k", "file:/a/b.keyring", "file:a:b", "vault:k", "vault:kms/prod/ml-data", "awskms:alias/ml-data",
     "awskms:1234abcd-12ab-34cd-56ef-1234567890ab", "awskms:arn:aws:kms:eu-central-1:123456789012:key/x",
     "awskms:arn:aws-us-gov:kms:us-gov-west-1:123456789012:alias/x", "awskms:mrk-1234"],
)  # fmt: skip
def test_a_reference_reads_back_as_it_was_written(text):
    assert str(parse_reference(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a key such as"),
        ("data.keyring", "is not a key such as"),
        ("fiel:x", "did you mean `file`"),
        ("file:", "names no key"),
        ("file:a\nb", "names no key"),
        ("vault:../sys/seal", "is not `vault:"),
        ("vault:a/../b", "is not `vault:"),
        ("vault:/k", "is not `vault:"),
        ("vault:k?x", "is not `vault:"),
        ("awskms:alias/ x", "is not `awskms:`"),
        ("awskms:arn:aws:s3:::bucket", "is not `awskms:`"),
        ("pkcs12:x", "is not a key such as"),
    ],
)
def test_a_reference_that_names_no_key_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_reference(text)


def test_a_relative_keyring_is_taken_from_the_folder_that_is_given(tmp_path):
    assert parse_reference("file:k", tmp_path).rest == str(tmp_path / "k")
    assert parse_reference("file:/k", tmp_path).rest == "/k"


def test_a_key_in_a_token_without_its_library_names_the_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    module = tmp_path / "module.so"
    module.write_bytes(b"")
    session = pkcs11_process.TokenSession({"module": str(module), "object": "kek", "id": None})
    for ask in (lambda: session.wrap(b"", b"", ["", ""]), lambda: session.unwrap(b"", "01", ["", ""])):
        with pytest.raises(pkcs11_process.RefusedError, match=r"needs the extra `pkcs11`: `pip install") as refused:
            ask()
        assert refused.value.answer["error"] == "user"
