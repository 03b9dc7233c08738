"""One configuration file to settings: defaults, variables, paths, parts."""

from pathlib import Path

import pytest
from projects import MINIMAL, project

from ext_authz.config import load
from ext_authz.config.load import read
from ext_authz.documents import DocumentError


def settings(folder, text, environ=None, **files):
    loaded = load(project(folder, text + MINIMAL, files), environ or {})
    assert loaded.settings is not None
    return loaded.settings


def mistakes(folder, text, environ=None):
    return [each.message for each in read(project(folder, text + MINIMAL), environ or {}).mistakes]


def test_the_smallest_valid_file_names_one_policy_file_and_is_safe(tmp_path):
    made = settings(tmp_path, "")
    assert made.server.listen == ("127.0.0.1:9191",)
    assert made.server.worker_count() == 1
    assert made.admin.listen == "127.0.0.1:9192"
    assert made.run_dir == tmp_path / "run"
    assert not made.identity.unsafe_anonymous
    assert not made.server.unsafe_plaintext
    assert not made.response.forward_credentials
    assert set(made.response.headers) == {"x-authz-subject", "x-authz-auth", "x-authz-roles", "x-authz-policy"}


def test_no_default_is_unsafe():
    """Whatever says `unsafe_` is off until somebody writes it."""
    from pydantic import BaseModel

    from ext_authz.config import Settings

    def walk(model):
        for name, field in model.model_fields.items():
            if name.startswith("unsafe_"):
                assert field.default is False
            kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
            for kind in kinds:
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    walk(kind)

    walk(Settings)


def test_relative_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("conf")
    folder.mkdir()
    made = settings(folder, "admin: {token_file: admin.token}\nrun_dir: /var/lib/x\n")
    assert made.admin.token_file == Path("conf/admin.token")
    assert made.run_dir == Path("/var/lib/x")


def test_variables_are_put_into_strings_after_parsing(tmp_path):
    made = settings(
        tmp_path,
        'server: {workers: "${N}", socket_group: "a-${GROUP}-${file:more.txt}", listen: ["unix:/x/{worker}.sock"]}\n',
        {"N": "3", "GROUP": "b: [c"},
        **{"more.txt": "d\n"},
    )
    assert made.server.workers == 3
    assert made.server.socket_group == "a-b: [c-d"


def test_what_was_put_in_is_not_looked_at_again(tmp_path):
    made = settings(
        tmp_path, 'server: {socket_group: "${A}", listen: ["unix:/x/{worker}.sock"]}\n', {"A": "${B}", "B": "secret"}
    )
    assert made.server.socket_group == "${B}"


def test_a_value_put_into_a_header_cannot_become_a_template(tmp_path):
    text = 'response: {headers: {x-tier: "${TIER}"}}\n'
    assert mistakes(tmp_path, text, {"TIER": "${subject.claims.ssn}"}) == [
        "the value of `${TIER}` holds `${`, which would be read as a template"
    ]
    assert settings(tmp_path, text, {"TIER": "gold"}).response.headers["x-tier"] == "gold"


def test_a_secret_value_is_not_repeated_in_a_mistake(tmp_path):
    found = mistakes(tmp_path, 'server: {drain: "${SECRET}"}\nadmin: {tls: "${SECRET}"}\n', {"SECRET": "hunter2"})
    assert len(found) == 2
    assert all("hunter2" not in each and "${SECRET}" in each for each in found)


def test_an_empty_variable_is_set(tmp_path):
    assert settings(tmp_path, 'server: {socket_group: "${A}"}\n', {"A": ""}).server.socket_group == ""


@pytest.mark.parametrize("name", ["lower", "A-B", "A.B", "", " A"])
def test_only_environment_names_and_files_are_variables(tmp_path, name):
    (found,) = mistakes(tmp_path, f'run_dir: "x${{{name}}}"\n', {name: "x"})
    assert "neither an environment variable" in found


def test_a_part_can_be_loaded_where_the_rest_cannot(tmp_path):
    path = project(tmp_path, "run_dir: state\nserver: {socket_group: '${NOT_SET}', drian: 1}\nidentity: [x]\n")
    loaded = load(path, {}, frozenset({"run_dir", "state"}))
    assert loaded.settings is not None
    assert loaded.settings.run_dir == tmp_path / "state"
    assert not loaded.names_policies


def test_a_part_with_a_mistake_is_not_loaded(tmp_path):
    path = project(tmp_path, "run_dir:\n")
    with pytest.raises(DocumentError, match="`run_dir` has no value"):
        load(path, {}, frozenset({"run_dir"}))


def test_a_misspelt_key_is_a_mistake_also_for_a_part(tmp_path):
    path = project(tmp_path, "run_dri: x\n")
    with pytest.raises(DocumentError, match="did you mean `run_dir`"):
        load(path, {}, frozenset({"run_dir"}))


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = project(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(path, {}).settings is not None


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(DocumentError) as caught:
        load(tmp_path / "none.yaml", {})
    assert str(caught.value) == f"cannot read `{tmp_path}/none.yaml`: no such file or directory"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("localhost:9", "127.0.0.1:9"),
        ("[0:0::1]:9", "[::1]:9"),
        ("unix:/run/{worker}.sock", "unix:/run/{worker}.sock"),
    ],
)
def test_listeners_have_one_spelling(tmp_path, written, meant):
    assert settings(tmp_path, f'server: {{listen: ["{written}"]}}\n').server.listen == (meant,)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[2001:db8::1]:1", "[::ffff:10.0.0.1]:1", "192.168.0.1:0"],
)
def test_tcp_beyond_loopback_is_refused_without_proof_of_who_calls(tmp_path, address):
    text = f'server: {{listen: ["{address}"]}}\n'
    (found,) = mistakes(tmp_path, text)
    assert "reachable from other machines" in found
    half = f'server: {{listen: ["{address}"], tls: {{certificate: a, private_key: b, client_ca: c}}}}\n'
    assert any("reachable" in each for each in mistakes(tmp_path, half))
    no_names = text.replace("]}", "], tls: {certificate: a, private_key: b, client_ca: c, client_names: []}}")
    assert any("reachable" in each for each in mistakes(tmp_path, no_names))
    assert mistakes(tmp_path, text.replace("]}", "], unsafe_plaintext: true}")) == []
    whole = text.replace("]}", "], tls: {certificate: a, private_key: b, client_ca: c, client_names: [x]}}")
    assert mistakes(tmp_path, whole) == []


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "unix:/x.sock"])
def test_loopback_and_sockets_need_no_tls(tmp_path, address):
    assert mistakes(tmp_path, f'server: {{listen: ["{address}"]}}\n') == []


def test_a_socket_path_that_does_not_fit_is_refused(tmp_path):
    (found,) = mistakes(tmp_path, f'server: {{listen: ["unix:/{"x" * 107}"]}}\n')
    assert "at most 107 bytes" in found


def test_every_workers_address_is_listed(tmp_path):
    server = settings(tmp_path, 'server: {workers: 2, listen: ["127.0.0.1:1", "unix:/r/{worker}.sock"]}\n').server
    assert server.addresses() == ("127.0.0.1:1", "unix:/r/0.sock", "unix:/r/1.sock")
    assert settings(tmp_path, "server: {workers: auto}\n").server.worker_count() >= 1
