"""`replay` as people and pipelines use it."""

import orjson
import pytest
from command_line import ran
from policy_support import ask, compiled, policy, subject
from projects import project
from recorded_events import changed, event_of
from trails import write_run

OPEN = policy(name="open")
OFFICE = policy("{ip_range: 10.0.0.0/8}", name="office")
ALICE = subject(issuer="i", claims={"sub": "alice"})


@pytest.fixture
def trail(tmp_path):
    lines = [event_of(ask(ALICE, ip=ip), compiled(OPEN), seq=n) for n, ip in enumerate(["10.1.2.3", "8.8.8.8"])]
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n")
    return file


@pytest.fixture
def office(tmp_path):
    file = tmp_path / "next" / "office.yaml"
    file.parent.mkdir()
    file.write_text(OFFICE)
    return file


def test_it_says_who_loses(trail, office, capfd):
    done = ran(capfd, "replay", trail, "--against", office)
    assert (done.status, done.err) == (0, "")
    assert "2 of 2 requests decided again" in done.out
    assert "\nagainst 1 policy, revision " in done.out
    assert "1 LOSE access" in done.out
    assert "by policy: open 1" in done.out
    assert "allowed (open)" in done.out
    assert "conditions_not_met (office)" in done.out


@pytest.mark.parametrize(("which", "status"), [("gain", 0), ("loss", 1), ("any", 1)])
def test_changes_fail_where_asked_to(trail, office, capfd, which, status):
    assert ran(capfd, "replay", trail, "--against", office, "--fail-on", which).status == status


def test_json_has_all_of_it(trail, office, capfd):
    made = orjson.loads(ran(capfd, "replay", trail, "--against", office.parent, "--json").out)
    assert made["outcomes"] == {"same": 0, "gained": 0, "lost": 1, "other_policy": 1, "other_reason": 0}
    assert made["events"]["requests"] == 2
    assert made["lost"]["changes"][0]["subject"] == "sub:alice"


def test_a_folder_is_its_policies_without_tests(trail, office, capfd):
    (office.parent / "office_test.yaml").write_text("tests: [")
    assert ran(capfd, "replay", trail, "--against", office.parent).status == 0
    assert ran(capfd, "replay", trail, "--against", f"{office.parent}/*.yaml").status == 0


def test_without_against_the_configuration_is_asked(trail, tmp_path, capfd):
    config = project(tmp_path, files={"policies.yaml": OFFICE})
    assert "1 LOSE access" in ran(capfd, "replay", trail, "-c", config).out


def test_without_a_trail_that_of_the_configuration_is_read(tmp_path, trail, capfd):
    config = project(tmp_path, files={"policies.yaml": OFFICE})
    assert ran(capfd, "replay", "-c", config).err.startswith("there is no audit trail at ")
    write_run(tmp_path, trail.read_bytes().splitlines())
    assert "1 LOSE access" in ran(capfd, "replay", "-c", config).out
    (tmp_path / "audit.key").unlink()
    assert ran(capfd, "replay", "-c", config).status == 3


def test_what_could_not_be_replayed_is_always_said(trail, office, capfd):
    line = trail.read_bytes().splitlines()[0]
    trail.write_bytes(changed(line, truncated=["/subject/roles"]) + b"\n{\n")
    done = ran(capfd, "replay", trail, "--against", office, "--fail-on", "any")
    assert done.status == 0
    assert done.err == "warning: 2 events could not be replayed faithfully\n"
    assert "cut when it was recorded: /subject/roles  e.g. worker-0:0" in done.out
    assert "damaged: a line that is no event" in done.out


def test_nothing_to_replay_is_no_pass(tmp_path, office, capfd):
    empty = tmp_path / "none.jsonl"
    empty.write_bytes(b"")
    done = ran(capfd, "replay", empty, "--against", office, "--fail-on", "gain")
    assert (done.status, done.err) == (2, "there is no recorded request in what was given\n")


def test_mistakes_in_policies_and_paths_are_usage_errors(trail, office, tmp_path, capfd):
    office.write_text("policies: [{id: x, subject: [{any: true}]}]")
    assert "did you mean `subjects`" in ran(capfd, "replay", trail, "--against", office).err
    assert ran(capfd, "replay", tmp_path / "none", "--against", office).status == 2
    assert ran(capfd, "replay", trail, "--against", tmp_path / "none.yaml").status == 2
    done = ran(capfd, "replay", trail, "--against", f"{tmp_path}/none*.yaml")
    assert (done.status, done.err) == (2, f"no policy file matches `{tmp_path}/none*.yaml`\n")


def test_what_an_attacker_wrote_is_escaped(trail, office, capfd):
    lines = [changed(line, action="\x1b[31mred") for line in trail.read_bytes().splitlines()]
    trail.write_bytes(b"\n".join(lines) + b"\n")
    done = ran(capfd, "replay", trail, "--against", office)
    assert "\x1b" not in done.out
    assert "\\x1b[31mred" in done.out
