import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from ext_authz.authn.api_key_file import add_key, list_keys, new_key, revoke_key


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can withdraw a key in another user's file")
def test_a_withdrawal_by_root_leaves_the_key_file_readable_to_the_server(tmp_path):
    path = tmp_path / "api-keys.yaml"
    add_key(path, new_key(subject="b", secret=os.urandom(32), key_id="k", now=1)[1])
    os.chown(path, 0, 12345)
    path.chmod(0o640)
    revoke_key(path, "k", 2)
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 12345, 0o640)
    os.chown(path, 12345, 12345)
    path.chmod(0o600)
    revoke_key(path, "k", 3)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12345)


def test_changes_under_two_names_of_one_file_are_all_kept(tmp_path):
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "keys.yaml", tmp_path / "keys.yaml"
    real.write_text("keys: []\n")
    link.symlink_to(real)

    def add(path, name):
        for number in range(25):
            add_key(path, new_key(subject="b", secret=os.urandom(32), key_id=f"{name}-{number}", now=1)[1])

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(add, path, f"k{n}") for n, path in enumerate([real, link, real, link])]:
            done.result()
    assert len(list_keys(real)) == 100
