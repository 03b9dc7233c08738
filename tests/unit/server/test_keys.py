"""Following an issuer's keys: what is taken, what is kept, and when it is looked for again."""

import json
import os
import stat
import time

import pytest
from credentials import jwk
from key_server import BROKEN, KeyServer

from ext_authz.authn.jwt_settings import JwtSettings
from ext_authz.authn.remote import NOTHING_FETCHED, Fetched, RemoteKeys
from ext_authz.config import KEPT_KEYS, kept_keys
from ext_authz.server import keys as following
from ext_authz.server.fetching import Document, FetchError, fetch
from ext_authz.server.keys import KeyKeeper


def settings(server, **more):
    values = {"issuer": server.address, "audiences": ["a"], "algorithms": ["ES256"], **more}
    return JwtSettings.model_validate({"jwks_uri": server.uri, **values} if "discovery" not in more else values)


def wait_until(holds, seconds=10):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def server():
    made = KeyServer()
    yield made
    made.close()


@pytest.fixture
def follow(tmp_path):
    made = []

    def start(*issuers, kept=NOTHING_FETCHED, fetch=fetch_soon):
        published, counted = [], []
        keeper = KeyKeeper(
            issuers, kept, tmp_path, published.append, fetch=fetch, count=lambda *each: counted.append(each)
        )
        keeper.published, keeper.counted = published, counted
        made.append(keeper)
        keeper.start()
        return keeper

    yield start
    for each in made:
        each.stop()


def fetch_soon(url):
    return fetch(url, seconds=1)


def kids(fetched, issuer):
    return [each["kid"] for each in json.loads(fetched.keys[issuer].jwks)["keys"]]


@pytest.mark.parametrize("how", ["jwks_uri", "discovery"])
def test_keys_are_fetched_at_once_handed_on_and_kept(server, follow, tmp_path, how):
    keeper = follow(settings(server, **({"discovery": True} if how == "discovery" else {})))
    wait_until(lambda: keeper.published)
    assert kids(keeper.published[0], server.address) == ["key-1"]
    wait_until((tmp_path / KEPT_KEYS).exists)
    assert stat.S_IMODE(os.stat(tmp_path / KEPT_KEYS).st_mode) == 0o600
    assert kept_keys(tmp_path).keys == keeper.published[0].keys
    (status,) = keeper.statuses()
    assert status.usable
    assert status.age < 5
    assert keeper.waiting() == ()
    assert keeper.counted == [(server.address, "ok")]


@pytest.mark.parametrize("mode", BROKEN)
def test_what_is_no_key_set_is_never_handed_on_and_the_good_one_stays(server, follow, mode, capsys):
    kept = Fetched({server.address: RemoteKeys(server.uri, int(time.time()) - 60, server.document().decode())})
    server.mode = mode
    keeper = follow(settings(server), kept=kept)
    wait_until(lambda: (server.address, "failed") in keeper.counted)
    assert keeper.published == []
    (status,) = keeper.statuses()
    assert status.usable
    assert status.age >= 60
    assert "the last good ones stay" in capsys.readouterr().err


def test_an_issuer_that_never_answered_is_waited_for_until_it_does(server, follow):
    server.mode = "500"
    keeper = follow(settings(server))
    wait_until(lambda: keeper.counted)
    assert keeper.waiting() == (server.address,)
    assert not keeper.statuses()[0].usable
    server.mode = "good"
    wait_until(lambda: keeper.published)
    assert keeper.waiting() == ()
    server.mode = "500"
    assert keeper.waiting() == ()


def test_an_issuer_that_a_reload_adds_takes_no_serving_sidecar_out_of_service(server, follow):
    keeper = follow()
    server.mode = "500"
    keeper.aim([settings(server)])
    wait_until(lambda: keeper.counted)
    assert keeper.waiting() == ()
    keeper.aim([])
    assert keeper.statuses() == ()


def test_a_named_key_is_looked_for_once_and_its_absence_is_told(server, follow):
    keeper = follow(settings(server))
    wait_until(lambda: keeper.published)
    for _ in range(10):
        keeper.want(server.address, "key-2")
    keeper.want("https://nobody.example", "key-2")
    wait_until(lambda: len(keeper.published) == 2)
    assert keeper.published[1].absent == {server.address: ("key-2",)}
    keeper.want(server.address, "key-2")
    keeper.want(server.address, "key-1")
    time.sleep(0.3)
    assert len(server.requests) == 2


def test_a_key_named_while_keys_are_fetched_is_looked_for_afterwards(server, follow):
    keeper = follow(settings(server))
    wait_until(lambda: keeper.published)
    for number in range(2, 12):
        kid = server.rotate()
        keeper.want(server.address, kid)
        wait_until(lambda kid=kid: kid in kids(keeper.published[-1], server.address))
        assert len(server.requests) == number


def test_made_up_names_cause_few_fetches(server, follow):
    keeper = follow(settings(server))
    wait_until(lambda: keeper.published)
    for number in range(200):
        keeper.want(server.address, f"made-up-{number}")
        time.sleep(0.005)
    assert len(server.requests) <= 1 + 5 + 1


@pytest.mark.parametrize(
    ("age", "least", "most"), [(None, 240, 271), (0, 48, 55), (1, 48, 55), (600, 480, 541), (10**9, 2900, 3241)]
)
def test_the_next_look_is_ahead_of_expiry_and_within_bounds(server, tmp_path, age, least, most):
    document = Document(server.document(), age)
    follower = following._Follower(
        settings(server), NOTHING_FETCHED, lambda _: document, lambda *_: None, lambda *_: None
    )
    for _ in range(20):
        assert least <= follower._look(set()) <= most


def test_retries_come_quickly_and_then_a_minute_apart(server):
    def fail(_url):
        raise FetchError("down")

    follower = following._Follower(settings(server), NOTHING_FETCHED, fail, lambda *_: None, lambda *_: None)
    pauses = [follower._look(set()) for _ in range(8)]
    assert pauses[0] <= 1
    assert pauses[2] <= 5
    assert 50 <= pauses[-1] <= 60


def test_keys_of_another_source_are_not_used(server):
    kept = Fetched(
        {server.address: RemoteKeys("https://elsewhere.example/jwks", int(time.time()), server.document().decode())}
    )
    assert kept.of(settings(server)) == NOTHING_FETCHED.of(settings(server))


def test_keys_dated_ahead_of_the_clock_are_not_kept(server):
    ahead = RemoteKeys(server.uri, int(time.time()) + 10**6, server.document().decode())
    follower = following._Follower(
        settings(server), Fetched({server.address: ahead}), fetch, lambda *_: None, lambda *_: None
    )
    assert follower.remembered() == {}


def test_metadata_of_another_issuer_is_refused(server, follow, capsys):
    server.issuer_said = "https://attacker.example"
    keeper = follow(settings(server, discovery=True))
    wait_until(lambda: keeper.counted)
    assert keeper.published == []
    assert "names another `issuer`" in capsys.readouterr().err


@pytest.mark.parametrize("uri", [None, 7, "file:///etc/passwd", "http://192.0.2.1/jwks", "http://127.0.0.1/jwks"])
def test_metadata_that_leads_astray_is_refused(server, uri):
    metadata = {"issuer": "https://idp.example", "jwks_uri": uri}
    asked = []

    def fetch(url):
        asked.append(url)
        return Document(json.dumps(metadata).encode(), None)

    named = JwtSettings.model_validate({"issuer": "https://idp.example", "audiences": ["a"], "discovery": True})
    follower = following._Follower(named, NOTHING_FETCHED, fetch, lambda *_: None, lambda *_: None)
    follower._look(set())
    assert asked == ["https://idp.example/.well-known/openid-configuration"]
    assert follower.remembered() == {}


def test_a_set_without_a_key_for_the_algorithms_is_a_failure(server, follow):
    keeper = follow(settings(server, algorithms=["RS256"]))
    wait_until(lambda: keeper.counted)
    assert keeper.counted[0] == (server.address, "failed")


def test_an_answer_that_was_published_before_is_the_same_whatever_its_order(server):
    from ext_authz.authn.jwks import from_jwks

    server.rotate()
    keys = [jwk(private, kid=kid) for kid, private in server.keys]
    assert (
        from_jwks(json.dumps({"keys": keys}).encode()).digest
        == from_jwks(json.dumps({"keys": keys[::-1]}).encode()).digest
    )


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b'{"version":2}', b'{"version":1,"keys":{"a":[1,2,3]},"absent":{}}',
                                  b'{"version":1,"keys":[],"absent":{}}', b'{"version":1,"keys":{"a":["b",true,"c"]},"absent":{}}'])  # fmt: skip
def test_a_damaged_file_is_as_good_as_none(tmp_path, text):
    (tmp_path / KEPT_KEYS).write_bytes(text)
    assert kept_keys(tmp_path) == NOTHING_FETCHED
    with pytest.raises(ValueError):
        Fetched.from_bytes(text)


def test_a_folder_that_others_can_write_is_not_believed(server, tmp_path):
    (tmp_path / KEPT_KEYS).write_bytes(Fetched({"i": RemoteKeys("s", 1, "{}")}).to_bytes())
    assert kept_keys(tmp_path).keys
    tmp_path.chmod(0o777)
    assert kept_keys(tmp_path) == NOTHING_FETCHED
