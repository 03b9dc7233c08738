"""API keys: their form, and the file of their hashes."""

import stat
import threading
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from chains import api_keys, chain, key
from credentials import NOW, NOW_NS, facts

from ext_authz.authn.api_key import (
    KEY_LENGTH,
    ApiKeyAuthenticator,
    ApiKeysSettings,
    digest_of,
    encode_key,
    looks_like_a_key,
)
from ext_authz.authn.api_key_file import add_key, list_keys, new_key, read_keys, revoke_key, write_keys
from ext_authz.documents import DocumentError
from ext_authz.model import Reason, Refusal
from ext_authz.settings import parse_cidr
from ext_authz.state import EMPTY_STATE

RECORD = f"  - {{id: a, subject: batch, hash: 'sha256:{'0' * 64}'}}\n"


def test_a_key_can_be_told_by_its_form() -> None:
    made = encode_key(bytes(range(32)))
    assert made.startswith("eak_")
    assert len(made) == KEY_LENGTH == 53
    assert looks_like_a_key(made)
    assert looks_like_a_key(encode_key(bytes(32)))
    assert looks_like_a_key(encode_key(b"\xff" * 32))
    for other in (made[:-1], made + "0", made.swapcase(), made[:10] + "é" + made[11:], made + "\n", "", "eak_"):
        assert not looks_like_a_key(other)
    with pytest.raises(ValueError, match="32 random bytes"):
        encode_key(b"short")


def test_the_file_holds_no_key(tmp_path: Path) -> None:
    path = tmp_path / "api-keys.yaml"
    made, record = new_key(
        subject="batch-7", secret=b"s" * 32, key_id="ak-1", now=NOW, lifetime=60, roles=["b", "a"], org="o", note="n: x"
    )
    add_key(path, record)
    text = path.read_text()
    assert made not in text
    assert made[4:20] not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list_keys(path) == (record,)
    assert record.digest == digest_of(made)
    assert (record.created, record.expires) == (NOW, NOW + 60)


def test_a_key_is_withdrawn_once_and_stays_listed(tmp_path: Path) -> None:
    path = tmp_path / "api-keys.yaml"
    for number in range(3):
        add_key(path, new_key(subject="b", secret=bytes([number]) * 32, key_id=f"ak-{number}", now=NOW)[1])
    assert revoke_key(path, "ak-1", NOW + 5).revoked == NOW + 5
    assert revoke_key(path, "ak-1", NOW + 9).revoked == NOW + 5
    assert [record.revoked for record in list_keys(path)] == [None, NOW + 5, None]
    with pytest.raises(KeyError):
        revoke_key(path, "ak-9", NOW)
    with pytest.raises(ValueError, match="already"):
        add_key(path, new_key(subject="b", secret=b"x" * 32, key_id="ak-1", now=NOW)[1])
    assert {each.name for each in tmp_path.iterdir()} == {"api-keys.yaml", ".api-keys.yaml.lock"}


def test_a_file_made_private_again_and_a_link_followed_when_changed(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    real.write_text("# mine\nkeys: []\n")
    real.chmod(0o644)
    link.symlink_to(real)
    add_key(link, new_key(subject="b", secret=b"x" * 32, key_id="ak", now=NOW)[1])
    assert link.is_symlink()
    assert len(list_keys(real)) == 1
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


def test_a_broken_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "api-keys.yaml"
    path.write_text("keys: {")
    with pytest.raises(DocumentError):
        add_key(path, new_key(subject="b", secret=b"x" * 32, key_id="ak", now=NOW)[1])
    assert path.read_text() == "keys: {"


def test_changes_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "api-keys.yaml"

    def add(number: int) -> None:
        add_key(path, new_key(subject="b", secret=bytes([number]) * 32, key_id=f"ak-{number}", now=NOW)[1])

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {record.id for record in list_keys(path)} == {f"ak-{number}" for number in range(8)}


def test_what_is_written_is_read_again() -> None:
    records = tuple(record for _, record in api_keys().values())
    assert read_keys(write_keys(records), "f") == records


@pytest.mark.parametrize("text", ["", "# nothing\n", "keys:\n", "keys: []\n"])
def test_an_empty_file_holds_no_keys(text: str) -> None:
    assert read_keys(text, "f") == ()


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("- a\n", ["f:1:1: a key file is a mapping with `keys:`"]),
        ("keyz: []\n", ["f:1:1: unknown key `keyz`, did you mean `keys`?"]),
        ("keys: x\n", ["f:1:7: `keys` is a list"]),
        ("keys: [x]\n", ["f:1:8: a key is a mapping"]),
        ("keys:\n  - {id: a, subject: b}\n", ["f:2:5: `hash` is missing"]),
        (
            "keys:\n" + RECORD * 2,
            ["f:3:10: another record has the same `id`", "f:3:35: another record has the same `hash`"],
        ),
        (
            "keys:\n  - {id: a b, subject: 'key:x', hash: abc}\n",
            ["f:2:10: an id has", "f:2:24: `key:x` reads as a name of another kind", "f:2:39: a hash is"],
        ),
        ("keys:\n" + RECORD.replace("}", ", role: x}"), ["f:2:110: unknown key `role`, did you mean `roles`?"]),
        ("keys:\n" + RECORD.replace("}", ", roles: x}"), ["f:2:117: `roles` is a list of texts"]),
        ("keys:\n" + RECORD.replace("}", ", expires: tomorrow}"), ["f:2:119: `expires` is a time such as"]),
        ("keys:\n" + RECORD.replace("}", ", expires: 2026-02-30T00:00:00Z}"), ["f:2:119: `expires` is a time such as"]),
        ("keys:\n" + RECORD.replace("}", ", expires: }"), ["`expires` is a time such as"]),
        ("keys:\n" + RECORD.replace("subject: batch", "subject: ''"), ["f:2:22: `subject` is empty"]),
        ("keys:\n" + RECORD.replace("}", ", note: [a]}"), ["`note` is not short, printable text"]),
        ("keys:\n" + RECORD.replace("}", ", cidrs: []}"), ["`cidrs` is a list of networks"]),
        ("keys:\n" + RECORD.replace("}", ", cidrs: 10.0.0.0/8}"), ["`cidrs` is a list of networks"]),
        (
            "keys:\n" + RECORD.replace("}", ", cidrs: [10.0.0.1/8, x, {}]}"),
            ["`10.0.0.1/8` has bits set", "`x` is not a CIDR", "is not a CIDR"],
        ),
    ],
)
def test_every_mistake_is_told_at_its_place(text: str, messages: list[str]) -> None:
    with pytest.raises(DocumentError) as raised:
        read_keys(text, "f")
    rendered = [diagnostic.render() for diagnostic in raised.value.diagnostics]
    assert len(rendered) == len(messages)
    for line, message in zip(rendered, messages, strict=True):
        assert message in line


@pytest.mark.parametrize(
    "arguments",
    [
        {"subject": "sub:x"},
        {"subject": ""},
        {"roles": [""]},
        {"roles": ["a\nb"]},
        {"key_id": "a b"},
        {"org": "x" * 300},
    ],
)
def test_a_record_that_could_not_be_read_again_is_not_made(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        new_key(**{"subject": "b", "secret": b"x" * 32, "key_id": "ak", "now": NOW, **arguments})  # type: ignore[arg-type]


def test_two_records_of_one_key_are_not_loaded() -> None:
    record = api_keys()["good"][1]
    with pytest.raises(ValueError, match="same key"):
        ApiKeyAuthenticator(ApiKeysSettings(file=Path("f")), [record, record])
    assert looks_like_a_key(key())


NETWORKS = (parse_cidr("10.20.0.0/16"), parse_cidr("2001:db8::/32"))


@pytest.mark.parametrize(
    ("address", "good"),
    [("10.20.3.4", True), ("2001:db8::1", True), ("10.21.0.1", False), ("192.0.2.1", False), (None, False)],
)
def test_a_key_bound_to_networks_is_good_there_and_nowhere_else(address: str | None, good: bool) -> None:
    text, record = api_keys()["good"]
    found = None if address is None else ip_address(address)
    built = chain(records=[replace(record, cidrs=NETWORKS)], address_of=lambda _: found)
    for headers in ({"x-api-key": text}, {"authorization": f"Bearer {text}"}):
        for _ in range(2):  # a remembered identity is looked at again
            answer = built.authenticate(facts(headers=headers), EMPTY_STATE, NOW_NS)
            assert isinstance(answer, Refusal) != good
            if isinstance(answer, Refusal):
                assert answer.reason is Reason.INVALID_API_KEY
                assert answer.detail.startswith("key `ak-good` is used from ")


def test_a_key_without_networks_is_good_everywhere_and_tokens_have_none() -> None:
    built = chain(address_of=lambda _: None)
    assert not isinstance(built.authenticate(facts(headers={"x-api-key": key()}), EMPTY_STATE, NOW_NS), Refusal)
    record = replace(api_keys()["good"][1], cidrs=NETWORKS)
    assert read_keys(write_keys([record]), "f") == (record,)
