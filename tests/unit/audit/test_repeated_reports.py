"""A log makes a checkpoint every ten seconds, also when idle: what is wrong with many of them is said once."""

from altered import SIGNER, abandon, add, bounds, copied, files, flip, scanned, verified
from trails import new_spool

from ext_authz.audit.anchors import Anchors
from ext_authz.audit.checkpoint import open_note


def idle(folder, *, events=30, checkpoints=8):
    """A log that was idle for a while at its end."""
    spool = new_spool(folder)
    add(spool, events)
    for _ in range(checkpoints):
        spool._checkpoint("interval")
    abandon(spool)
    return folder


def anchors_of(folder):
    kept = Anchors()
    for path in files(folder):
        for mark in scanned(path).marks:
            if mark.note:
                kept.add_head(open_note(mark.note, [SIGNER.key])[0])
    return kept


def test_a_log_that_was_cut_off_is_missing_its_tail_once_however_many_checkpoints_were_kept(tmp_path):
    whole = idle(tmp_path / "audit")
    kept = anchors_of(whole)
    assert sum(map(len, kept.heads.values())) == 8
    (path,) = files(copied(whole, tmp_path / "cut"))
    path.write_bytes(path.read_bytes()[: bounds(path)[20][1]])
    report = verified(tmp_path / "cut", against=kept)
    assert report.status == 4
    assert [(each.first, each.last, each.text) for each in report.problems] == [
        (
            20,
            29,
            "missing: a checkpoint that was kept has 30 events, the log ends at 20 (cut off, or an old state put back)",
        )
    ]


def test_of_kept_checkpoints_that_a_log_lacks_the_highest_speaks(tmp_path):
    spool = new_spool(tmp_path / "audit")
    for _ in range(5):
        add(spool, 10)
        spool._checkpoint("interval")
    abandon(spool)
    kept = anchors_of(tmp_path / "audit")
    (path,) = files(tmp_path / "audit")
    path.write_bytes(path.read_bytes()[: bounds(path)[11][1]])
    report = verified(tmp_path / "audit", against=kept)
    (problem,) = report.problems
    assert (problem.first, problem.last) == (10, 49)


def test_checkpoints_behind_damage_are_one_note_with_their_number(tmp_path):
    folder = idle(tmp_path / "audit")
    (path,) = files(folder)
    flip(path, bounds(path)[5][0] + 40)
    report = verified(folder)
    assert report.status == 1
    assert [each.partition(": ")[2] or each for each in report.logs[0].notes] == [
        "the last 30 events are behind the last checkpoint that could be held against them",
        "a checkpoint of 30 events could not be held against them (nor 7 more, of as many or fewer)",
    ]


def test_the_same_false_root_of_many_kept_checkpoints_is_one_problem(tmp_path):
    kept = anchors_of(idle(tmp_path / "other"))
    folder = idle(tmp_path / "audit")
    heads = [head for each in kept.heads.values() for head in each]
    log_id = verified(folder).logs[0].log
    kept.heads = {log_id: heads}
    for head in heads:
        object.__setattr__(head, "origin", f"ext-authz/{log_id}")
    report = verified(folder, against=kept)
    assert report.status == 1
    assert [each.text for each in report.problems] == ["are not those of a checkpoint that was kept: other roots"]
