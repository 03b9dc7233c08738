"""From signed bytes to a bundle that is believed: each thing that can be wrong has its own reason."""

import gzip
import io
import json
import tarfile

import pytest
from bundles import DAY, FILES, KEY, NOW, bundle, foreign, key, manifest_of, members, rebuilt, signed_by

from ext_authz.bundle.archive import open_bundle, write_archive
from ext_authz.bundle.keys import by_id, key_id, write_signatures
from ext_authz.bundle.manifest import MANIFEST, SIGNATURES, parse
from ext_authz.bundle.problems import BundleError, Problem
from ext_authz.bundle.trust import Believed, Limits, Trust, TrustedBundle

OURS = by_id([key().public_key()])
TRUST = Trust(OURS, "ml-prod")


def problem(archive, trust=TRUST, now=NOW + 60, kept=False):
    with pytest.raises(BundleError) as caught:
        open_bundle(archive, trust, now, kept=kept)
    return caught.value.problem


def resigned(change, files=FILES, keys=(KEY,)):
    """A bundle whose manifest says something else, signed all the same."""
    plain = json.loads(manifest_of(files).to_bytes())
    change(plain)
    data = json.dumps(plain).encode()
    return write_archive([(MANIFEST, data), (SIGNATURES, signed_by(data, *keys)), *sorted(files.items())])


def test_a_good_bundle_is_believed_whole():
    found = open_bundle(bundle(), TRUST, NOW + 60)
    assert found.files == FILES
    assert (found.policies, found.resources) == (("policies/a.yaml",), ("resources/r.yaml",))
    assert found.signed_by == tuple(OURS)
    assert found.manifest == manifest_of()


def test_the_same_input_gives_the_same_bytes():
    assert bundle() == bundle()
    assert parse(manifest_of().to_bytes()).to_bytes() == manifest_of().to_bytes()


def test_another_tar_program_reads_it_and_what_it_packs_plainly_is_read_here():
    assert dict(members(bundle()))["policies/a.yaml"] == FILES["policies/a.yaml"]
    assert open_bundle(foreign(bundle()), TRUST, NOW).files == FILES


@pytest.mark.parametrize("kept", [False, True])
def test_one_changed_byte_of_a_file_is_found(kept):
    def change(listed):
        return [(n, d.replace(b"id: ok", b"id: ko") if n == "policies/a.yaml" else d) for n, d in listed]

    assert problem(rebuilt(bundle(), change), kept=kept) == Problem.WRONG_DIGEST


def test_a_longer_file_is_found_before_it_is_read():
    assert problem(rebuilt(bundle(), lambda m: [(n, d + b"#") for n, d in m[:2]] + m[2:])) == Problem.BAD_SIGNATURE
    assert problem(rebuilt(bundle(), lambda m: [*m[:2], *((n, d + b"#") for n, d in m[2:])])) == Problem.WRONG_SIZE


def test_a_file_left_out_put_in_or_put_twice_is_found():
    assert problem(rebuilt(bundle(), lambda m: m[:-1])) == Problem.MISSING_FILE
    assert problem(rebuilt(bundle(), lambda m: [*m, ("policies/z.yaml", b"x: y\n")])) == Problem.UNLISTED_FILE
    assert problem(rebuilt(bundle(), lambda m: [*m, m[2]])) == Problem.DUPLICATE_FILE
    assert problem(rebuilt(bundle(), lambda m: [*m, m[0]])) == Problem.DUPLICATE_FILE


def test_files_of_two_good_bundles_are_not_mixed():
    other = {**FILES, "policies/a.yaml": FILES["policies/a.yaml"].replace(b"ok", b"no")}
    old, new = members(bundle()), members(bundle(other, revision=8))
    assert problem(write_archive([*new[:2], *old[2:]])) == Problem.WRONG_DIGEST
    assert problem(write_archive([new[0], old[1], *new[2:]])) == Problem.BAD_SIGNATURE


def test_signatures():
    assert problem(bundle(keys=())) == Problem.UNSIGNED
    assert problem(bundle(keys=(key(2),))) == Problem.UNTRUSTED_KEY
    forged = members(bundle())
    theirs = signed_by(forged[0][1], key(2))
    renamed = theirs.replace(key_id(key(2).public_key()).encode(), next(iter(OURS)).encode())
    assert problem(write_archive([forged[0], (SIGNATURES, renamed), *forged[2:]])) == Problem.BAD_SIGNATURE
    for odd in (b"", b"[]", b'{"signatures": 1}', b'{"signatures": [{"key": "a"}]}', b'{"signatures": [], "x": 1}'):
        assert problem(write_archive([forged[0], (SIGNATURES, odd), *forged[2:]])) == Problem.BAD_SIGNATURE
    short = write_signatures({next(iter(OURS)): b"x" * 63})
    assert problem(write_archive([forged[0], (SIGNATURES, short), *forged[2:]])) == Problem.BAD_SIGNATURE


def test_a_signature_made_for_something_else_is_none():
    data = manifest_of().to_bytes()
    bare = write_signatures({next(iter(OURS)): key().sign(data)})
    assert problem(write_archive([(MANIFEST, data), (SIGNATURES, bare), *FILES.items()])) == Problem.BAD_SIGNATURE


def test_while_a_key_is_changed_either_of_two_will_do():
    both = Trust(by_id([key(1).public_key(), key(2).public_key()]), "ml-prod")
    for keys in ((key(1),), (key(2),), (key(1), key(2)), (key(3), key(2))):
        assert open_bundle(bundle(keys=keys), both, NOW).files == FILES
    assert problem(bundle(keys=(key(1),)), Trust(by_id([key(2).public_key()]), "ml-prod")) == Problem.UNTRUSTED_KEY
    assert open_bundle(bundle(keys=(key(1), key(2))), Trust(by_id([key(2).public_key()]), "ml-prod"), NOW).files


def test_the_bundle_of_others_is_not_taken_for_ours():
    assert problem(bundle(name="ml-staging")) == Problem.OTHER_NAME


def test_an_older_bundle_is_refused_once_a_newer_one_was_believed():
    seven = open_bundle(bundle(), TRUST, NOW).to_believed()
    now_at_seven = Trust(OURS, "ml-prod", believed=seven)
    assert problem(bundle(revision=6), now_at_seven) == Problem.ROLLBACK
    assert open_bundle(bundle(), now_at_seven, NOW).manifest.revision == 7
    assert open_bundle(bundle(revision=8), now_at_seven, NOW).manifest.revision == 8
    assert problem(bundle(expires=NOW + DAY), now_at_seven) == Problem.EQUIVOCATION
    assert problem(bundle(), Trust(OURS, "ml-prod", min_revision=8)) == Problem.ROLLBACK


def test_a_revision_signed_by_keys_that_are_gone_binds_nobody():
    stolen = Believed(2**53, "0" * 64, frozenset(by_id([key(9).public_key()])))
    assert open_bundle(bundle(), Trust(OURS, "ml-prod", believed=stolen), NOW).manifest.revision == 7
    still_there = Trust(OURS | by_id([key(9).public_key()]), "ml-prod", believed=stolen)
    assert problem(bundle(), still_there) == Problem.ROLLBACK


def test_an_expired_bundle_is_not_begun_with_and_one_in_force_stays():
    assert problem(bundle(), now=NOW + 30 * DAY) == Problem.EXPIRED
    assert open_bundle(bundle(), TRUST, NOW + 30 * DAY - 1).files
    assert open_bundle(bundle(), TRUST, NOW + 99 * DAY, kept=True).files


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("format"),
        lambda m: m.update(format="ext-authz-bundle/2"),
        lambda m: m.pop("expires_at"),
        lambda m: m.update(more=1),
        lambda m: m.update(revision=0),
        lambda m: m.update(revision="7"),
        lambda m: m.update(revision=True),
        lambda m: m.update(revision=2**60),
        lambda m: m.update(name="../x"),
        lambda m: m.update(files=[]),
        lambda m: m.update(files={}),
        lambda m: m.update(created_at="tomorrow"),
        lambda m: m.update(expires_at="2026-13-41T00:00:00Z"),
        lambda m: m.update(expires_at=m["created_at"]),
        lambda m: m["files"][0].pop("size"),
        lambda m: m["files"][0].update(size=-1),
        lambda m: m["files"][0].update(sha256="AB"),
    ],
)
def test_a_signed_manifest_that_says_something_odd_is_refused(change):
    assert problem(resigned(change)) == Problem.BAD_MANIFEST


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"\xff", b"{", b"[" * 100_000, b'{"name": "a", "name": "b"}', b'{"revision": 1.0}', b'{"a": NaN}'],
)
def test_a_signed_manifest_that_is_no_strict_json_is_refused(data):
    archive = write_archive([(MANIFEST, data), (SIGNATURES, signed_by(data, key()))])
    assert problem(archive) == Problem.BAD_MANIFEST


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd.yaml",
        "../policies/a.yaml",
        "policies/../../a.yaml",
        "policies/./a.yaml",
        "policies//a.yaml",
        "policies/.a.yaml",
        "policies/a.yml",
        "policies/a.yaml/",
        "policies/a b.yaml",
        "policies/a\n.yaml",
        "policies/ä.yaml",
        "policies\\a.yaml",
        "other/a.yaml",
        "a.yaml",
        "policies/" + "a" * 100 + ".yaml",
    ],
)
def test_a_path_that_could_mean_something_else_somewhere_is_refused(path):
    def change(plain):
        plain["files"][0]["path"] = path

    assert problem(resigned(change)) == Problem.BAD_PATH


def test_two_names_that_are_one_on_some_disks_are_refused():
    def twice(name):
        return lambda plain: plain["files"].append({**plain["files"][0], "path": name})

    assert problem(resigned(twice("policies/A.yaml"))) == Problem.BAD_PATH
    assert problem(resigned(twice("policies/a.yaml"))) == Problem.DUPLICATE_FILE
    assert problem(resigned(twice("policies/a.yaml/b.yaml"))) == Problem.BAD_PATH


def test_limits():
    small = Trust(OURS, "ml-prod", limits=Limits(compressed=100))
    assert problem(bundle(), small) == Problem.TOO_LARGE
    assert problem(bundle(), Trust(OURS, "ml-prod", limits=Limits(unpacked=50))) == Problem.TOO_LARGE
    assert problem(bundle(), Trust(OURS, "ml-prod", limits=Limits(files=2))) == Problem.TOO_MANY_FILES


def entry(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "info",
    [
        entry("policies/l.yaml", tarfile.SYMTYPE, "/etc/passwd"),
        entry("policies/l.yaml", tarfile.LNKTYPE, "policies/a.yaml"),
        entry("policies", tarfile.DIRTYPE),
        entry("policies/c.yaml", tarfile.CHRTYPE),
        entry("policies/b.yaml", tarfile.BLKTYPE),
        entry("policies/f.yaml", tarfile.FIFOTYPE),
        entry("policies/s.yaml", tarfile.GNUTYPE_SPARSE),
        entry("policies/z.yaml", b"Z"),
    ],
)
def test_what_is_no_plain_file_is_refused(info):
    assert problem(foreign(bundle(), (info, b""))) == Problem.FORBIDDEN_ENTRY


def test_extended_headers_which_programs_read_differently_are_refused():
    long = entry("policies/" + "d/" * 60 + "a.yaml")
    assert problem(foreign(bundle(), (long, b""), form=tarfile.PAX_FORMAT)) == Problem.FORBIDDEN_ENTRY
    assert problem(foreign(bundle(), (long, b""), form=tarfile.GNU_FORMAT)) == Problem.FORBIDDEN_ENTRY
    assert problem(foreign(bundle(), (long, b""), form=tarfile.USTAR_FORMAT)) == Problem.BAD_PATH


def test_members_that_lead_out_of_the_archive_are_refused():
    for name in ("/etc/cron.d/x.yaml", "../../x.yaml", "policies/../../x.yaml"):
        assert problem(foreign(bundle(), (entry(name), b"x"))) == Problem.BAD_PATH


def test_the_manifest_comes_first_so_that_nothing_unsigned_is_unpacked_before():
    assert problem(foreign(bundle(), (entry("policies/a.yaml"), b"x" * 10), where=0)) == Problem.DAMAGED
    assert problem(write_archive([])) == Problem.DAMAGED


def test_a_bomb_is_dropped_long_before_it_is_unpacked():
    zeros = gzip.compress(b"\0" * 400_000_000, 9)
    assert len(zeros) < 400_000
    assert problem(zeros) == Problem.DAMAGED  # no manifest at its head
    head = gzip.decompress(bundle())
    after = gzip.compress(head[:-1024] + b"\0" * 300_000_000, 9)
    assert problem(after) in (Problem.TOO_LARGE, Problem.DAMAGED)
    lying = json.loads(manifest_of().to_bytes())
    lying["files"][0]["size"] = 2**40
    data = json.dumps(lying).encode()
    assert problem(write_archive([(MANIFEST, data), (SIGNATURES, signed_by(data, key()))])) == Problem.TOO_LARGE


def test_a_huge_manifest_or_signature_file_is_not_read():
    assert problem(write_archive([(MANIFEST, b" " * (2**20 + 1)), (SIGNATURES, b"{}")])) == Problem.TOO_LARGE
    data = manifest_of().to_bytes()
    assert problem(write_archive([(MANIFEST, data), (SIGNATURES, b" " * (2**16 + 1))])) == Problem.TOO_LARGE


@pytest.mark.parametrize("cut", [0, 1, 9, 10, 50, -9, -1])
def test_an_archive_that_is_cut_off_is_damaged(cut):
    assert problem(bundle()[:cut]) == Problem.DAMAGED


def test_nothing_follows_the_archive():
    good = bundle()
    assert problem(good + b"x") == Problem.DAMAGED
    assert problem(good + gzip.compress(b"more")) == Problem.DAMAGED
    raw = gzip.decompress(good)
    assert problem(gzip.compress(raw + b"x" * 512)) == Problem.DAMAGED
    assert problem(gzip.compress(raw[:-512])) == Problem.DAMAGED
    assert problem(gzip.compress(raw + bytes(20_000))) == Problem.DAMAGED


def test_odd_headers_are_damaged():
    raw = gzip.decompress(bundle())
    for at, new in ((124, b"\x80"), (124, b"-0000000001\0"), (148, b"000000\0 "), (257, b"xxxxx")):
        odd = bytearray(raw)
        odd[at : at + len(new)] = new
        assert problem(gzip.compress(bytes(odd))) == Problem.DAMAGED
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert len(tar.getnames()) == 5


def test_steps_cannot_be_taken_out_of_order():
    with pytest.raises(BundleError):
        TrustedBundle(TRUST, NOW).finish()
    with pytest.raises(BundleError):
        TrustedBundle(TRUST, NOW).take_file("policies/a.yaml", b"")
