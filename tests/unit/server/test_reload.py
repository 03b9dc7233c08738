import os

from running_service import write_configuration

from ext_authz import wiring
from ext_authz.server import reload as module
from ext_authz.server.reload import Reloader

KEY = "keys:\n- {id: k1, subject: batch-7, hash: 'sha256:%s'%s}\n"


def _keys(folder, *, revoked):
    end = ", revoked: '2026-01-01T00:00:00Z'" if revoked else ""
    (folder / "api-keys.yaml").write_text(KEY % ("0" * 64, end))


def _reloader(folder):
    configuration = write_configuration(folder)
    _keys(folder, revoked=False)
    inputs, _ = wiring.load(configuration, os.environ)
    published = []
    return configuration, Reloader(configuration, inputs, os.environ, published.append), published


def _look(reloader):
    """A few looks, as the control process takes them."""
    for _ in range(6):
        if reloader.changed():
            reloader.reload()


def test_a_key_withdrawn_while_the_files_are_being_read_is_withdrawn_here_too(tmp_path, monkeypatch):
    _, reloader, published = _reloader(tmp_path)
    really = wiring.load

    def slow(path, environ):
        made = really(path, environ)
        monkeypatch.setattr(module.wiring, "load", really)
        _keys(tmp_path, revoked=True)  # after the file was read, before the reload is done
        return made

    policies = tmp_path / "policies.yaml"
    policies.write_text(policies.read_text() + "# edited\n")
    monkeypatch.setattr(module.wiring, "load", slow)
    _look(reloader)
    assert b"revoked" in published[-1].files[str(tmp_path / "api-keys.yaml")]


def test_a_key_withdrawn_between_the_first_reading_and_the_first_look_is_withdrawn_here_too(tmp_path):
    configuration = write_configuration(tmp_path)
    _keys(tmp_path, revoked=False)
    inputs, _ = wiring.load(configuration, os.environ)  # the supervisor's; a control process started again gets them
    _keys(tmp_path, revoked=True)
    published = []
    reloader = Reloader(configuration, inputs, os.environ, published.append)
    _look(reloader)
    assert published
    assert b"revoked" in published[-1].files[str(tmp_path / "api-keys.yaml")]


def test_a_file_that_became_readable_again_is_read(tmp_path, monkeypatch):
    _, reloader, published = _reloader(tmp_path)
    _look(reloader)
    _keys(tmp_path, revoked=True)
    really = wiring.load

    def denied(path, environ):
        raise module.DocumentError([])

    monkeypatch.setattr(module.wiring, "load", denied)  # as after `sudo apikey revoke`: root's file, 0600
    _look(reloader)
    monkeypatch.setattr(module.wiring, "load", really)
    (tmp_path / "api-keys.yaml").chmod(0o640)
    _look(reloader)
    assert published
    assert b"revoked" in published[-1].files[str(tmp_path / "api-keys.yaml")]


def test_a_key_written_where_its_hash_belongs_is_not_put_on_record(tmp_path):
    _, reloader, _ = _reloader(tmp_path)
    key = "eak_0123456789012345678901234567890123456789012abcdef"
    (tmp_path / "api-keys.yaml").write_text(f"keys:\n- {{id: k1, subject: batch-7, hash: '{key}'}}\n")
    result = reloader.reload()
    assert result.problems
    assert key not in "\n".join(result.problems)


def test_a_new_policy_file_is_noticed_in_a_folder_whose_name_reads_as_a_pattern(tmp_path):
    folder = tmp_path / "app[blue]"
    configuration = write_configuration(folder, configuration="policies: {files: ['p*.yaml']}\n")
    inputs, _ = wiring.load(configuration, os.environ)
    published = []
    reloader = Reloader(configuration, inputs, os.environ, published.append)
    _look(reloader)
    (folder / "p2.yaml").write_text(
        "policies:\n- {id: nobody, effect: deny, subjects: [{any: true}], resources: [{type: '*'}], actions: ['*']}\n"
    )
    _look(reloader)
    assert published
