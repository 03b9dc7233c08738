"""audit verify, prove, verify-proof, public-key: exit status and words."""

import json
import os
import shutil

import pytest
from altered import add, files, flip
from command_line import ran
from projects import project
from trails import fail_one_sync

from ext_authz.audit.boot import record_start
from ext_authz.audit.cursor import Cursor
from ext_authz.audit.segment import HEADER_BYTES, frames
from ext_authz.audit.settings import AuditSettings
from ext_authz.audit.spool import Spool
from ext_authz.audit.trail_keys import TrailKeys


@pytest.fixture
def config(tmp_path):
    path = project(tmp_path)
    (tmp_path / "run").mkdir(mode=0o700)
    keys = TrailKeys(AuditSettings(), tmp_path, tmp_path / "run", {})
    keys.prepare()
    spool = Spool.create(tmp_path / "run" / "audit", "worker-0", keys=keys.open(), signer=keys.signer())
    record_start(spool, "worker-0", keys.open)
    add(spool, 20)
    spool.close()
    return path


@pytest.fixture
def trail(config):
    return config.parent / "run" / "audit"


def test_a_whole_trail_is_whole(config, trail, capfd):
    done = ran(capfd, "audit", "verify", "-c", config)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "whole: 1 log, 21 events"
    assert "  sealed, 1 segment, 21 events (numbers 0 to 20), " in done.out
    assert "  1 data key wrapped by " in done.out
    assert "21 events signed by ext-authz/audit+" in done.out


def test_the_report_is_json_too(config, capfd):
    plain = json.loads(ran(capfd, "audit", "verify", "--json", "-c", config).out)
    assert (plain["status"], plain["events"], plain["problems"]) == (0, 21, [])
    assert plain["logs"][0]["state"] == "sealed"


def test_an_altered_trail_is_said_to_be_and_where(config, trail, capfd):
    flip(files(trail)[0], 1500)
    done = ran(capfd, "audit", "verify", "-c", config)
    assert done.status == 1
    assert f"altered: {files(trail)[0].name}: at byte " in done.out
    assert "ALTERED: 1 log," in done.out


def test_a_segment_whose_key_is_gone_cannot_be_decrypted(config, trail, capfd):
    files(trail)[0].with_suffix(".key").unlink()
    done = ran(capfd, "audit", "verify", "-c", config)
    assert done.status == 3
    assert f"unreadable: {files(trail)[0].name}: its key was deleted" in done.out


def test_a_missing_tail_shows_against_a_kept_checkpoint(config, trail, capfd, tmp_path):
    proof = tmp_path / "last.tlog-proof"
    log = json.loads(ran(capfd, "audit", "verify", "--json", "-c", config).out)["logs"][0]["log"]
    assert ran(capfd, "audit", "prove", f"{log}:20", "-o", proof, "-c", config).status == 0
    kept = tmp_path / "kept"
    kept.write_text(proof.read_text().partition("\n\n")[2])
    path = files(trail)[0]
    path.write_bytes(path.read_bytes()[:2500])
    assert ran(capfd, "audit", "verify", "-c", config).status == 0
    done = ran(capfd, "audit", "verify", "--against", kept, "-c", config)
    assert done.status == 4
    assert "INCOMPLETE" in done.out
    assert "a checkpoint that was kept has 21 events" in done.out


def test_a_sinks_copy_that_differs_is_altered(config, trail, capfd, tmp_path):
    copy = tmp_path / "copy.jsonl"
    copy.write_text(ran(capfd, "audit", "cat", "--json", "-c", config).out)
    assert ran(capfd, "audit", "verify", "--against", copy, "-c", config).status == 0
    copy.write_text(copy.read_text().replace('"seq":7,', '"seq":7,"x":1,'))
    done = ran(capfd, "audit", "verify", "--against", copy, "-c", config)
    assert done.status == 1
    assert "event 7 is another than in the copy" in done.out


def test_far_from_the_server_the_keys_are_named(config, trail, capfd, tmp_path, monkeypatch):
    public = tmp_path / "audit.pub"
    public.write_text(ran(capfd, "audit", "public-key", "-c", config).out)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert ran(capfd, "audit", "verify", trail).status == 3
    key = f"file:{tmp_path}/audit.key"
    trusting = ran(capfd, "audit", "verify", trail, "--key", key)
    assert trusting.status == 0
    assert "name one you trust" in trusting.err
    assert ran(capfd, "audit", "verify", trail, "--key", key, "--public-key", public).err == ""
    framed = ran(capfd, "audit", "verify", trail, "--no-decrypt")
    assert framed.status == 0
    assert "no signature checked" in framed.out


def test_an_event_is_proven_with_the_public_key_alone(config, trail, capfd, tmp_path, monkeypatch):
    public, proof = tmp_path / "audit.pub", tmp_path / "e.tlog-proof"
    public.write_text(ran(capfd, "audit", "public-key", "-c", config).out)
    log = json.loads(ran(capfd, "audit", "verify", "--json", "-c", config).out)["logs"][0]["log"]
    written = ran(capfd, "audit", "prove", f"{log}:5", "-o", proof, "-c", config)
    assert (written.status, written.out) == (0, f"{proof}: proof of event 5 of its log, and nothing of other events\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    done = ran(capfd, "audit", "verify-proof", proof, "--public-key", public)
    assert done.status == 0
    assert json.loads(done.out)["event_id"] == f"{log}:5"
    assert "proven: this is event 5 of the log" in done.err
    proof.write_text(proof.read_text().replace("index 5", "index 6"))
    assert ran(capfd, "audit", "verify-proof", proof, "--public-key", public).status == 1
    assert ran(capfd, "audit", "verify-proof", proof).status == 2


@pytest.mark.parametrize("arguments", [
    ["verify", "nowhere"], ["verify", "--public-key", "nowhere"], ["verify", "--against", "nowhere"],
    ["verify-proof", "nowhere", "--public-key", "nowhere"], ["verify", "--public-key", "ext-authz.yaml"],
])  # fmt: skip
def test_what_cannot_be_read_is_named(config, capfd, monkeypatch, arguments):
    monkeypatch.chdir(config.parent)
    done = ran(capfd, "audit", *arguments)
    assert done.status == 2
    assert "nowhere" in done.err or "not a verifier key" in done.err


def test_an_event_that_is_not_there_does_not_hold(config, capfd):
    done = ran(capfd, "audit", "prove", "0" * 32, "-c", config)
    assert done.status == 1
    assert "no event here has the id" in done.err


def test_shredding_is_on_record_and_leaves_the_trail_proven(config, trail, capfd):
    path = files(trail)[0]
    done = ran(capfd, "audit", "shred", path, "--reason", "asked for", "-c", config)
    assert (done.status, done.err) == (0, f"{path.name}: its key is deleted\n")
    assert not path.with_suffix(".key").exists()
    plain = json.loads(ran(capfd, "audit", "verify", "--json", "-c", config).out)
    assert (plain["status"], plain["problems"]) == (0, [])
    assert [log["shredded"] for log in plain["logs"] if log["shredded"]] == [[path.name]]
    assert (
        f"  {path.name}: its key is deleted, nobody can read it any more\n"
        in ran(capfd, "audit", "verify", "-c", config).out
    )
    told = [line for line in ran(capfd, "audit", "cat", "-c", config).out.splitlines() if "segment_shredded" in line]
    assert len(told) == 1
    assert "by=os:" in told[0]
    assert "reason=asked for" in told[0]
    assert ran(capfd, "audit", "shred", path, "--reason", "again", "-c", config).status == 2


def test_what_a_sink_has_not_got_is_not_shredded_unasked(config, trail, capfd):
    config.write_text(config.read_text() + "audit: {sinks: [{type: file, name: copy, path: copy.jsonl}]}\n")
    path = files(trail)[0]
    cursor = Cursor(trail, "copy")
    for offset in (None, HEADER_BYTES, [each.end for each in frames(path.read_bytes()[HEADER_BYTES:])][-2]):
        if offset is not None:
            cursor.at(path.name).offset = offset
            cursor.save()
        done = ran(capfd, "audit", "shred", path, "--reason", "asked for", "-c", config)
        assert done.status == 2
        assert f"`{path.name}` is not with `copy` yet" in done.err
        assert path.with_suffix(".key").exists()
    cursor.at(path.name).offset = path.stat().st_size
    cursor.save()
    assert ran(capfd, "audit", "shred", path, "--reason", "asked for", "-c", config).status == 0
    other = files(trail, "operator")[0]
    done = ran(capfd, "audit", "shred", other, "--reason", "asked for", "--undelivered", "-c", config)
    assert done.status == 0
    assert not other.with_suffix(".key").exists()


def test_a_key_is_deleted_behind_a_signed_event_and_for_good(config, trail, capfd, monkeypatch):
    path = files(trail)[0]
    real, seen = os.fsync, []

    def looked(fd):
        if os.path.samestat(os.fstat(fd), trail.stat()):
            seen.append(path.with_suffix(".key").exists())
            if not seen[-1]:  # as it stands when power is lost now
                shutil.copytree(trail, trail.parent / "left")
                monkeypatch.setattr(os, "fsync", real)
        real(fd)

    monkeypatch.setattr(os, "fsync", looked)
    assert ran(capfd, "audit", "shred", path, "--reason", "asked for", "-c", config).status == 0
    assert seen[-1] is False, "the folder was not brought to the disk"
    done = ran(capfd, "audit", "verify", trail.parent / "left", "-c", config)
    assert done.status == 0, done.out


def test_events_that_a_failed_disk_put_into_two_segments_are_shredded_in_both(config, trail, capfd, monkeypatch):
    keys = TrailKeys(AuditSettings(), trail.parents[1], trail.parent, {})
    spool = Spool.create(trail, "worker-1", keys=keys.open(), signer=keys.signer())
    add(spool, 5)
    assert spool.sync()
    add(spool, 5)
    fail_one_sync(monkeypatch)
    assert spool.sync()
    monkeypatch.undo()
    spool.keys.wait(2, 5)
    assert spool.rotate()
    add(spool, 5)
    spool.close()
    first, second, third = files(trail, "worker-1")
    for alone, other in ((first, second), (second, first)):
        done = ran(capfd, "audit", "shred", alone, "--reason", "asked for", "-c", config)
        assert done.status == 2
        assert f"`{alone.name}` and `{other.name}` have the same events" in done.err
    assert ran(capfd, "audit", "shred", third, "--reason", "asked for", "-c", config).status == 0
    monkeypatch.chdir(trail)
    assert ran(capfd, "audit", "shred", first.name, second.name, "--reason", "asked for", "-c", config).status == 0
    assert ran(capfd, "audit", "verify", "-c", config).status == 0


def test_what_is_being_written_or_is_no_segment_is_not_shredded(config, trail, capfd, tmp_path):
    keys = TrailKeys(AuditSettings(), tmp_path, tmp_path / "run", {})
    spool = Spool.create(trail, "worker-1", keys=keys.open(), signer=keys.signer())
    done = ran(capfd, "audit", "shred", files(trail, "worker-1")[0], "--reason", "x", "-c", config)
    assert done.status == 2
    assert "is being written" in done.err
    spool.close()
    for wrong in (tmp_path / "audit.key", trail / "nothing.seg", trail / "query.key"):
        done = ran(capfd, "audit", "shred", wrong, "--reason", "x", "-c", config)
        assert done.status == 2
        assert "is no segment of the trail" in done.err
    assert (tmp_path / "audit.key").exists()


def test_a_copy_in_which_nothing_can_be_compared_proves_nothing(config, trail, capfd, tmp_path):
    copy = tmp_path / "ocsf.jsonl"
    copy.write_text('{"class_uid":6003}\n' * 3)
    done = ran(capfd, "audit", "verify", "--against", copy, "-c", config)
    assert done.status == 1
    assert "holds no event of a trail" in done.err


def test_an_id_that_is_no_text_is_not_there(config, capfd):
    done = ran(capfd, "audit", "prove", "\udcff", "-c", config)
    assert done.status == 1
    assert "no event here has the id" in done.err
