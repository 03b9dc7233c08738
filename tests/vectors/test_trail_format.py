"""The trail against a second implementation of its format, and against files of version 1 that are kept for good."""

import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from independent_trail import merkle_root, read_segment
from trails import keyring, run_spool

from ext_authz.audit.reader import Trail
from ext_authz.audit.trail import segments
from ext_authz.envelope.keys.file import FileKeys

KEPT = Path(__file__).parent / "trail-1"


def events_of(folder: Path, keyring_text: str) -> list[bytes]:
    return [
        payload
        for each in segments(folder)
        for kind, _, payload in read_segment(each.path, keyring_text)[1]
        if kind == 1
    ]


def test_what_the_writer_writes_the_second_implementation_reads(tmp_path):
    spool = run_spool(tmp_path)
    written = [b'{"seq":%d,"pad":"%s"}' % (seq, b"x" * (37 * seq % 900)) for seq in range(300)]
    for seq, event in enumerate(written):
        spool.append(lambda _, event=event: event)
        if seq == 100:
            assert spool.rotate()
            assert spool.keys.wait(2, 5)
    spool.append_all([lambda seq: b'{"seq":%d}' % seq] * 3)
    written += [b'{"seq":%d}' % seq for seq in (300, 301, 302)]
    spool.check()
    spool._broken = True  # as after a failed fdatasync
    assert spool.sync()
    spool.close()
    text = keyring(tmp_path).read_text()
    found = [read_segment(each.path, text) for each in segments(tmp_path / "run" / "audit")]
    assert [header["number"] for header, _ in found] == [0, 1, 2]
    for header, frames in found:
        first = header["first_seq"]
        assert header["root"] == merkle_root(written[:first])
        assert frames[0][0] == 4
        assert [events for _, events, _ in frames if events] == sorted(events for _, events, _ in frames if events)
        for kind, events, payload in frames:
            if kind == 1:
                assert payload == written[first + events]
            else:
                plain = json.loads(payload)
                assert plain["root"] == merkle_root(written[: plain["size"]]).hex()
    assert found[-1][1][-1][0] == 3
    assert found[0][1][-1][0] == 2


def test_the_second_implementation_refuses_another_key_and_a_moved_segment(tmp_path):
    spool = run_spool(tmp_path)
    spool.append(lambda _: b"{}")
    spool.close()
    path = segments(tmp_path / "run" / "audit")[0].path
    keys = json.loads(keyring(tmp_path).read_text())
    keys["keys"][0]["key"] = "A" * 43 + "="
    with pytest.raises(InvalidTag):
        read_segment(path, json.dumps(keys))
    for old in (path, path.with_suffix(".key")):
        old.rename(old.with_name(old.name.replace(".000000.", ".000001.")))
    with pytest.raises(InvalidTag):
        read_segment(path.with_name(path.name.replace(".000000.", ".000001.")), keyring(tmp_path).read_text())


def test_trails_of_version_1_are_read_for_good():
    expected = (KEPT / "events.jsonl").read_bytes().splitlines()
    found = Trail([KEPT], lambda: FileKeys.load(kept_keyring()))
    assert [entry.line for entry in found.entries()] == expected
    assert (found.damaged, found.gaps()) == (0, [])
    assert events_of(KEPT, kept_keyring().read_text()) == expected


def kept_keyring() -> Path:
    path = KEPT / "audit.key"
    path.chmod(0o600)  # a clone gives it the mode that the clone's owner likes
    return path
