"""What the control process does with a bundle: one gate, and the last good one stays whatever comes."""

import json
import os
import time

import pytest
from bundles import FILES, KEY, BundleServer, fresh, key, public_pem
from projects import POLICY, project

from ext_authz import wiring
from ext_authz.bundle.kept import archive_path
from ext_authz.bundle.problems import BundleError, Problem
from ext_authz.config import Inputs
from ext_authz.documents import DocumentError
from ext_authz.server import bundles as module
from ext_authz.server.bundle_desk import BundleDesk
from ext_authz.server.bundles import BundleKeeper, adopt, ensure
from ext_authz.server.fetching import Document, FetchError
from ext_authz.server.metrics import Registry
from ext_authz.server.reload import Reloader

CONFIG = "policies: {bundle: {url: '%s', name: ml-prod, public_keys: [k.pub%s], poll: 1s%s}}\n"
OTHER = POLICY.replace("id: ok", "id: other")


@pytest.fixture
def server():
    made = BundleServer(fresh(POLICY))
    yield made
    made.close()


def configured(folder, url="http://127.0.0.1:1/b", keys="", more=""):
    files = {"k.pub": public_pem(KEY), "k2.pub": public_pem(key(2))}
    path = project(folder, CONFIG % (url, keys, more), files)
    (folder / "run").mkdir(mode=0o700, exist_ok=True)
    return path


def reloader(config):
    inputs, _ = wiring.load(config, os.environ)
    published = []
    return Reloader(config, inputs, os.environ, published.append), published


def believed(folder):
    return json.loads((folder / "run/bundle/believed.json").read_text())["ml-prod"]["revision"]


def test_policies_and_resources_of_a_bundle_are_part_of_the_inputs_and_its_number_of_the_revision(tmp_path):
    config = configured(tmp_path)
    catalog = "routes: [{host: a.internal, path: /x, methods: [GET], unsafe_public: true}]\n"
    inputs = adopt(config, os.environ, fresh(POLICY, catalog, revision=17))
    assert inputs.policy_files == ("bundle:policies/p.yaml",)
    assert inputs.resource_files == ("bundle:resources/r.yaml",)
    assert inputs.revision.endswith("-b17")
    assert Inputs.from_bytes(inputs.to_bytes()) == inputs
    again, snapshot = wiring.load(config, os.environ)
    assert again == inputs
    assert [each.id for each in snapshot.policies.policies] == ["ok"]
    assert snapshot.revision.endswith("-b17")


def test_what_a_worker_gets_names_the_bundle_too(tmp_path):
    inputs = adopt(configured(tmp_path), os.environ, fresh(POLICY, revision=3))
    restored = Inputs.from_bytes(inputs.to_bytes())
    assert restored.bundle == inputs.bundle
    assert wiring.build(restored).revision == inputs.revision


def test_local_policies_stand_before_those_of_the_bundle_and_an_id_in_both_is_refused(tmp_path):
    config = project(
        tmp_path,
        CONFIG.replace("policies: {", "policies: {files: [policies.yaml], ") % ("http://127.0.0.1:1/b", "", ""),
        {"k.pub": public_pem(KEY)},
    )
    (tmp_path / "run").mkdir(mode=0o700)
    inputs = adopt(config, os.environ, fresh(OTHER))
    assert [name.rpartition("/")[2] for name in inputs.policy_files] == ["policies.yaml", "p.yaml"]
    with pytest.raises(DocumentError, match=r"bundle:policies/p.yaml:2:\d+: .*`ok`"):
        adopt(config, os.environ, fresh(POLICY, revision=2))
    assert believed(tmp_path) == 1


def test_a_bundle_that_does_not_load_is_neither_kept_nor_remembered(tmp_path):
    config = configured(tmp_path)
    adopt(config, os.environ, fresh(POLICY, revision=1))
    watched, published = reloader(config)
    result = watched.reload(fresh("policies: [{id: x, effect: maybe}]\n", revision=9))
    assert result.problem == Problem.DOES_NOT_LOAD
    assert "bundle:policies/p.yaml:1:" in result.problems[0]
    assert (published, believed(tmp_path)) == ([], 1)
    assert watched.reload(fresh(OTHER, revision=2)).problems == ()


@pytest.mark.parametrize(
    ("archive", "problem"),
    [
        (lambda: fresh(OTHER, revision=4), Problem.ROLLBACK),
        (lambda: fresh(OTHER, revision=5), Problem.EQUIVOCATION),
        (lambda: fresh(OTHER, revision=6, keys=()), Problem.UNSIGNED),
        (lambda: fresh(OTHER, revision=6, keys=(key(3),)), Problem.UNTRUSTED_KEY),
        (lambda: fresh(OTHER, revision=6, name="ml-test"), Problem.OTHER_NAME),
        (lambda: fresh(OTHER, revision=6, lasts=-1), Problem.EXPIRED),
        (lambda: fresh(OTHER, revision=6)[:-20], Problem.DAMAGED),
        (lambda: b"<html>sign in</html>", Problem.DAMAGED),
    ],
)
def test_whatever_comes_the_last_good_one_stays(tmp_path, archive, problem):
    config = configured(tmp_path)
    good = fresh(POLICY, revision=5)
    adopt(config, os.environ, good)
    watched, published = reloader(config)
    before = watched.inputs.revision
    result = watched.reload(archive())
    assert result.problem == problem
    assert (result.revision, published) == (before, [])
    assert archive_path(tmp_path / "run").read_bytes() == good
    assert believed(tmp_path) == 5
    assert watched.reload().unchanged


def test_a_kept_bundle_is_verified_again_at_every_start(tmp_path):
    config = configured(tmp_path)
    adopt(config, os.environ, fresh(POLICY, revision=5))
    archive_path(tmp_path / "run").write_bytes(fresh(POLICY, revision=4))
    with pytest.raises(DocumentError, match=r"bundle refused \(rollback\)"):
        wiring.load(config, os.environ)
    archive_path(tmp_path / "run").write_bytes(fresh(POLICY, revision=9, keys=(key(2),)))
    with pytest.raises(DocumentError, match=r"bundle refused \(untrusted_key\)"):
        wiring.load(config, os.environ)


def test_an_end_by_force_between_bundle_and_memory_lets_no_older_bundle_in_at_the_next_start(tmp_path):
    config = configured(tmp_path)
    older, newer = fresh(POLICY, revision=10), fresh(OTHER, revision=11)
    adopt(config, os.environ, older)
    memory = (tmp_path / "run/bundle/believed.json").read_bytes()
    adopt(config, os.environ, newer)
    (tmp_path / "run/bundle/believed.json").write_bytes(memory)
    ensure(config, os.environ)
    assert believed(tmp_path) == 11
    reloads, _ = reloader(config)
    assert reloads.reload(older).problem is Problem.ROLLBACK
    assert reloads.inputs.revision.endswith("-b11")
    (tmp_path / "run/bundle/believed.json").unlink()
    ensure(config, os.environ)
    assert not (tmp_path / "run/bundle/believed.json").exists()


def test_a_kept_bundle_that_expired_is_begun_with(tmp_path, monkeypatch):
    config = configured(tmp_path)
    adopt(config, os.environ, fresh(POLICY, revision=5))
    ahead = time.time() + 10 * 86_400
    monkeypatch.setattr("ext_authz.config.bundles.time.time", lambda: ahead)
    assert wiring.load(config, os.environ)[0].bundle.revision == 5
    with pytest.raises(BundleError) as caught:
        adopt(config, os.environ, archive_path(tmp_path / "run").read_bytes())
    assert caught.value.problem == Problem.EXPIRED


def test_a_damaged_memory_is_an_error_and_not_a_clean_start(tmp_path):
    config = configured(tmp_path)
    adopt(config, os.environ, fresh(POLICY, revision=5))
    for damage in ("", "{", "[]", '{"ml-prod": 5}', '{"ml-prod": {"revision": "x", "digest": "", "keys": []}}'):
        (tmp_path / "run/bundle/believed.json").write_text(damage)
        with pytest.raises(DocumentError, match=r"bundle refused \(not_kept\).*believed.json is damaged"):
            wiring.load(config, os.environ)
    (tmp_path / "run/bundle/believed.json").unlink()
    assert adopt(config, os.environ, fresh(POLICY, revision=1)).bundle.revision == 1  # a clean state, knowingly


def test_a_disk_that_does_not_take_the_bundle_keeps_it_out_of_force(tmp_path):
    config = configured(tmp_path)
    adopt(config, os.environ, fresh(POLICY, revision=5))
    watched, published = reloader(config)
    (tmp_path / "run/bundle/bundle.tar.gz.new").mkdir()
    assert watched.reload(fresh(POLICY, revision=6)).problem == Problem.NOT_KEPT
    assert (published, believed(tmp_path)) == ([], 5)


def test_min_revision_is_the_floor_of_a_clean_disk(tmp_path):
    config = configured(tmp_path, more=", min_revision: 10")
    with pytest.raises(BundleError, match="below `min_revision` 10"):
        adopt(config, os.environ, fresh(POLICY, revision=9))


def test_a_key_is_changed_without_a_gap(tmp_path):
    config = configured(tmp_path)
    adopt(config, os.environ, fresh(POLICY, revision=1))
    watched, published = reloader(config)
    configured(tmp_path, keys=", k2.pub")
    assert watched.reload().problems == ()
    assert watched.reload(fresh(OTHER, revision=2, keys=(key(2),))).problems == ()
    config.write_text(config.read_text().replace("k.pub, k2.pub", "k2.pub"))
    assert watched.reload().problems == ()
    assert watched.reload(fresh(POLICY, revision=3, keys=(KEY,))).problem == Problem.UNTRUSTED_KEY
    assert published[-1].bundle.revision == 2


def test_a_configuration_that_waits_for_its_bundle_gets_it(tmp_path):
    config = configured(tmp_path)
    adopt(config, os.environ, fresh(POLICY, revision=1))
    watched, _ = reloader(config)
    config.write_text(config.read_text().replace("k.pub", "k2.pub").replace("name: ml-prod", "name: ml-new"))
    assert "other_name" in watched.reload().problems[0] or "untrusted_key" in watched.reload().problems[0]
    assert watched.wanted.name == "ml-new"
    assert watched.reload(fresh(OTHER, revision=1, keys=(key(2),), name="ml-new")).problems == ()


def test_a_start_without_a_bundle_fetches_one_and_the_next_start_asks_nobody(tmp_path, server):
    config = configured(tmp_path, server.url)
    ensure(config, os.environ)
    assert wiring.load(config, os.environ)[0].bundle.revision == 1
    asked = len(server.statuses)
    server.mode = "500"
    ensure(config, os.environ)
    assert len(server.statuses) == asked


def test_a_start_tries_for_a_while_and_then_says_why(tmp_path, server, monkeypatch):
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.0)
    config = configured(tmp_path, server.url)
    server.mode = "500"
    with pytest.raises(BundleError, match="status 500"):
        ensure(config, os.environ)
    server.mode = "redirect"
    with pytest.raises(BundleError, match="redirects to another host"):
        ensure(config, os.environ)
    server.mode, server.archive = "good", fresh(POLICY, keys=(key(2),))
    with pytest.raises(BundleError, match="none of these is a configured key"):
        ensure(config, os.environ)


def test_headers_go_to_the_server_and_come_from_the_environment(tmp_path, server):
    config = configured(tmp_path, server.url, more=", headers: {authorization: 'Bearer ${TOKEN}'}")
    server.token = "s3cret"
    ensure(config, {"TOKEN": "s3cret"})
    assert server.statuses == [200]


def test_a_bundle_with_tests_alone_is_no_policy(tmp_path):
    from bundles import bundle

    config = configured(tmp_path)
    now = int(time.time())
    files = {"policies/a_test.yaml": FILES["policies/a_test.yaml"]}
    with pytest.raises(DocumentError, match="the bundle holds no policies"):
        adopt(config, os.environ, bundle(files, created=now, expires=now + 60))


class Script:
    """Answers of a server, one after the other; the etags it was asked with."""

    def __init__(self, *answers):
        self.answers, self.etags = list(answers), []

    def __call__(self, settings, etag):
        self.etags.append(etag)
        answer = self.answers.pop(0) if self.answers else Document(b"", None, etag, unchanged=True)
        if isinstance(answer, Exception):
            raise answer
        return answer


def came(keeper):
    end = time.monotonic() + 10
    while (found := keeper.taken()) is None:
        assert time.monotonic() < end
        time.sleep(0.005)
    return found


def test_the_keeper_asks_with_the_etag_of_what_is_in_force_and_of_nothing_else(tmp_path):
    config = configured(tmp_path)
    settings = adopt(config, os.environ, fresh(POLICY)).settings.policies.bundle
    script = Script(
        Document(b"one", None, '"1"'), FetchError("down"), Document(b"two", None, '"2"'), Document(b"one", None)
    )
    keeper = BundleKeeper(tmp_path / "run", fetch=script)
    keeper.aim(settings)
    first = came(keeper)
    assert first.archive == b"one"
    keeper.settled(first)
    keeper.look()
    assert came(keeper).failure == "down"
    keeper.look()
    assert came(keeper).archive == b"two"  # refused by whoever took it: not settled
    keeper.look()
    assert came(keeper).archive is None  # the same bytes, from a server without etags
    archive_path(tmp_path / "run").unlink()
    keeper.look()
    came(keeper)
    assert script.etags == ["", '"1"', '"1"', '"1"', ""]
    keeper.stop()


def test_a_keeper_aimed_elsewhere_forgets_what_it_knew(tmp_path):
    config = configured(tmp_path)
    settings = adopt(config, os.environ, fresh(POLICY)).settings.policies.bundle
    script = Script(Document(b"one", None, '"1"'), Document(b"two", None, '"2"'))
    keeper = BundleKeeper(tmp_path / "run", fetch=script)
    keeper.aim(settings)
    keeper.settled(came(keeper))
    keeper.aim(settings.model_copy(update={"name": "another"}))
    assert came(keeper).archive == b"two"
    assert script.etags == ["", ""]
    keeper.stop()


def test_what_is_told_of_a_url_is_no_secret(tmp_path, server):
    server.mode = "500"
    config = configured(tmp_path, f"{server.url}?signature=s3cret")
    settings = module.config.load(config, {}).settings.policies.bundle
    with pytest.raises(BundleError) as caught:
        module.fetch_and_adopt(config, {}, settings)
    assert "s3cret" not in str(caught.value)


class Desk:
    """A desk over a real reloader, with a keeper that is handed its answers."""

    def __init__(self, folder, *answers):
        self.config = configured(folder)
        adopt(self.config, os.environ, fresh(POLICY, revision=5))
        self.reloader, self.published = reloader(self.config)
        self.registry, self.events = Registry("control"), []
        self.desk = BundleDesk(folder / "run", self.reloader, self.registry, self.record)
        self.desk._keeper = BundleKeeper(folder / "run", fetch=Script(*answers))

    def record(self, what, *, result="ok", diagnostics=()):
        self.events.append((what, result, *(each.partition(":")[0] for each in diagnostics)))

    def work(self):
        end = time.monotonic() + 10
        while self.desk._keeper._came is None:
            assert time.monotonic() < end
            time.sleep(0.005)
        self.desk.work()

    def counted(self):
        return {each[1]: each[2] for each in self.registry.snapshot(0.0)["counters"] if "bundle" in each[0]}


def test_the_desk_tells_each_failure_once_counts_every_one_and_goes_on(tmp_path):
    good = fresh(OTHER, revision=6)
    bad = fresh(OTHER, revision=4)
    made = Desk(tmp_path, FetchError("down"), FetchError("down"), Document(bad, None), Document(good, None, '"6"'))
    made.desk.aim()
    made.work()
    for _ in range(4):
        made.desk.look()
        made.work()
    assert made.events == [("bundle", "failed", "unreachable"), ("bundle", "failed", "rollback"), ("bundle", "ok")]
    assert made.counted() == {"unreachable": 2.0, "rollback": 1.0, "ok": 1.0, "unchanged": 1.0}
    assert made.desk.details()["bundle_revision"] == 6
    assert [each.bundle.revision for each in made.published] == [6]
    made.desk.stop()


def test_the_desk_says_once_that_what_is_in_force_expired(tmp_path, monkeypatch):
    made = Desk(tmp_path)
    ahead = time.time() + 10 * 86_400
    monkeypatch.setattr("ext_authz.server.bundle_desk.time.time", lambda: ahead)
    for _ in range(3):
        made.desk.work()
    assert made.events == [("bundle", "failed", "expired")]
    gauges = {name: value for name, _, value in made.desk.gauges(ahead)}
    assert gauges["ext_authz_bundle_revision"] == 5
    assert gauges["ext_authz_bundle_expires_seconds"] < -8 * 86_400


def test_without_a_bundle_there_is_nothing_to_say(tmp_path):
    config = project(tmp_path)
    watched, _ = reloader(config)
    desk = BundleDesk(tmp_path / "run", watched, Registry("control"), lambda *_, **__: None)
    desk.aim()
    desk.work()
    assert desk.gauges(0.0) == []
    assert desk.details() == {"revision": watched.inputs.revision}
