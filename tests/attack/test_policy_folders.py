"""What somebody who may only add files to the folder of policies makes of those who read it."""

import os

import pytest
from command_line import ran
from running_service import POLICIES, SCORER, start, write_configuration
from wire_requests import check_request, read_reply

from ext_authz.config.globs import matching, read_plain
from ext_authz.server.watch import Watch

CONFIGURATION = """\
run_dir: run
identity:
  mtls: {trust_domains: [ml.example]}
  api_keys: {file: api-keys.yaml}
  role_bindings:
  - {role: scorer, members: ["spiffe://ml.example/ns/apps/sa/scorer"]}
resources: {files: [resources.yaml]}
policies: {files: ["policies/**/*.yaml"]}
"""
DENY = "policies:\n- {id: nothing_at_all, effect: deny}\n"


def linked(folder):
    """A folder of which two links lead to itself: 2^40 names for each file."""
    (folder / "policies" / "team").mkdir(parents=True)
    (folder / "policies" / "p.yaml").write_text(POLICIES)
    for name in ("a", "b"):
        (folder / "policies" / name).symlink_to(".")
    (folder / "policies" / "loop").symlink_to("loop")
    return folder / "policies"


def test_links_to_their_own_folder_hold_up_neither_loading_nor_watching(tmp_path):
    policies = linked(tmp_path)
    running = start(tmp_path, configuration=CONFIGURATION)
    try:
        message = check_request("POST", "/v2/models/fraud/infer", host="models.internal", principal=SCORER)
        assert read_reply(running.service.check(message)).allowed
    finally:
        running.close()
    watch = Watch((), (f"{policies}/**/*.yaml",))
    (policies / "team" / "q.yaml").write_text(DENY)
    assert [watch.changed(), watch.changed()] == [False, True]


def test_a_deny_behind_links_is_still_loaded(tmp_path):
    policies = linked(tmp_path)
    elsewhere = tmp_path / "shared"
    elsewhere.mkdir()
    (elsewhere / "deny.yaml").write_text(DENY)
    (policies / "team" / "shared").symlink_to(elsewhere)
    running = start(tmp_path, configuration=CONFIGURATION)
    try:
        message = check_request("POST", "/v2/models/fraud/infer", host="models.internal", principal=SCORER)
        assert not read_reply(running.service.check(message)).allowed
        assert running.events()[-1]["reason"] == "denied_by_policy"
    finally:
        running.close()


def test_a_folder_under_several_names_is_gone_into_once_by_the_nearest(tmp_path, monkeypatch):
    policies = linked(tmp_path)
    (policies / "team" / "deeper").mkdir()
    (policies / "team" / "deeper" / "q.yaml").touch()
    (policies / ".hidden").mkdir()
    (policies / ".hidden" / "h.yaml").touch()
    (policies / "[x]*").mkdir()
    (policies / "[x]*" / "r.yaml").touch()
    (policies / "short").symlink_to("team/deeper")
    monkeypatch.chdir(tmp_path)
    found = ["policies/[x]*/r.yaml", "policies/p.yaml", "policies/short/q.yaml"]
    assert sorted(matching("policies/**/*.yaml")) == found
    assert sorted(matching("**/*.yaml")) == found
    assert sorted(matching(f"{tmp_path}/**/*.yaml")) == [f"{tmp_path}/{name}" for name in found]
    assert sorted(matching("p*/**/*.yaml")) == found
    assert "policies/short/q.yaml" in matching("policies/**/**/q.yaml")
    assert matching("nowhere/**/*.yaml") == matching("policies/p.yaml/**/*.yaml") == []
    assert "policies/team/deeper" in matching("policies/te*/**")
    assert matching("policies/*.yaml") == ["policies/p.yaml"]


def test_a_folder_that_may_not_be_read_hides_no_other(tmp_path, monkeypatch):
    (tmp_path / "shut").mkdir()
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "p.yaml").touch()
    really = os.scandir

    def scandir(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "permission denied")
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert matching(f"{tmp_path}/**/*.yaml") == [f"{tmp_path}/open/p.yaml"]


@pytest.mark.parametrize("kind", ["policies", "resources"])
def test_nobody_waits_at_a_pipe_or_reads_a_device(kind, tmp_path, capfd):
    configuration = CONFIGURATION.replace("[resources.yaml]", "[resources.yaml, 'resources/*.yaml']")
    for name in ("policies", "resources"):
        (tmp_path / name).mkdir()
    (tmp_path / "policies" / "p.yaml").write_text(POLICIES)
    (tmp_path / "resources" / "r.yaml").write_text("catalog: []\n")
    os.mkfifo(tmp_path / kind / "pipe.yaml")
    (tmp_path / kind / "zero.yaml").symlink_to("/dev/zero")
    found = ran(capfd, "check", "-c", write_configuration(tmp_path, configuration=configuration))
    assert found.status == 2
    assert [line for line in found.err.splitlines() if "not a plain file" in line] == [
        f"{tmp_path}/ext-authz.yaml:{8 if kind == 'policies' else 7}:{found.err.split(':')[2]}: "
        f"cannot read `{tmp_path}/{kind}/{name}.yaml`: not a plain file"
        for name in ("pipe", "zero")
    ]


def test_what_is_read_is_plain_and_bounded(tmp_path):
    file = tmp_path / "p"
    file.write_bytes(b"12345")
    assert read_plain(file, 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_plain(file, 4)
    with pytest.raises(IsADirectoryError):
        read_plain(tmp_path, 5)
