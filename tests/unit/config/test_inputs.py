"""Inputs: every file read once, equal in every process."""

from pathlib import Path

import pytest
from projects import MINIMAL, POLICY, project

from ext_authz.config import Inputs, load_inputs, patterns
from ext_authz.documents import DocumentError

RICH = """\
server: {socket_group: "${GROUP}-${file:group.txt}", listen: ["unix:/x/{worker}.sock"]}
resources:
  routes: [{host: a.internal, path: /x, resource: {type: t, id: i}, action: read_data}]
  files: ["resources/*.yaml"]
identity: {jwt: [{issuer: i, audiences: [a], hmac_secret_file: secret}]}
policies: {files: ["policies/*.yaml"]}
"""
FILES = {
    "group.txt": "b",
    "secret": b"\xff\x00" * 32,
    "resources/b.yaml": "catalog: [{type: t, id: i, x: y}]\n",
    "resources/a.yaml": "routes: [{host: b.internal, path: /x, resource: {type: t, id: i}, action: read_data}]\n",
    "policies/z.yaml": POLICY.replace("ok", "z"),
    "policies/a.yaml": POLICY.replace("ok", "a"),
    "policies/a_test.yaml": "not: [a policy",
}


def rich(folder):
    return load_inputs(project(folder, RICH, FILES), {"GROUP": "a"})


def test_inputs_survive_the_way_to_another_process(tmp_path, monkeypatch):
    inputs = rich(tmp_path)
    data = inputs.to_bytes()
    for each in tmp_path.rglob("*"):
        if each.is_file():
            each.unlink()
    restored = Inputs.from_bytes(data)
    assert restored == inputs
    assert restored.revision == inputs.revision
    assert restored.settings == inputs.settings
    assert restored.settings.server.socket_group == "a-b"
    assert restored.resource_documents() == inputs.resource_documents()


def test_policies_and_resources_come_in_path_order_without_tests(tmp_path):
    inputs = rich(tmp_path)
    assert [Path(each).name for each in inputs.policy_files] == ["a.yaml", "z.yaml"]
    assert [each["id"] for each in inputs.policies["policies"]] == ["a", "z"]
    assert [Path(each).name for each in inputs.resource_files] == ["a.yaml", "b.yaml"]


def test_a_policy_file_that_two_globs_match_is_read_once(tmp_path):
    config = 'policies: {files: ["policies/*.yaml", "policies/a.yaml", "**/z.yaml"]}\n'
    inputs = load_inputs(project(tmp_path, config, FILES), {})
    assert len(inputs.policy_files) == 2


def test_the_revision_tells_every_content_apart_and_not_the_place(tmp_path):
    seen = set()
    for name, content in [("", b""), *((name, b"#") for name in FILES if "test" not in name and "group" not in name)]:
        folder = tmp_path / f"x{len(seen)}"
        folder.mkdir()
        path = project(folder, RICH, FILES)
        if name:
            with (folder / name).open("ab") as file:
                file.write(content)
        seen.add(load_inputs(path, {"GROUP": "a"}).revision)
    assert len(seen) == 6
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    assert rich(one).revision == rich(other).revision
    assert load_inputs(one / "ext-authz.yaml", {"GROUP": "c"}).revision != rich(one).revision


def test_altered_bytes_are_no_inputs(tmp_path):
    data = rich(tmp_path).to_bytes()
    with pytest.raises(ValueError, match="revision"):
        Inputs.from_bytes(data.replace(b'"b.internal', b'"c.internal').replace(b'"GROUP":"a"', b'"GROUP":"x"'))


def test_globs_do_not_read_a_folders_name_as_a_pattern(tmp_path):
    folder = tmp_path / "a[b]*"
    folder.mkdir()
    (tmp_path / "ab").mkdir()
    inputs = load_inputs(
        project(folder, 'policies: {files: ["*.yaml"]}\nresources: {}\n'.replace("*", "poli*"), {}), {}
    )
    assert inputs.policy_files == (str(folder / "policies.yaml"),)


def test_only_tests_among_the_matches_are_no_policies(tmp_path):
    config = 'policies: {files: ["only/*.yaml"]}\n'
    with pytest.raises(DocumentError, match="no file matches"):
        load_inputs(project(tmp_path, config, {"only/a_test.yaml": "tests: []\n"}), {})


def test_a_folder_in_place_of_a_file_is_a_mistake(tmp_path):
    (tmp_path / "secret").mkdir()
    config = "identity: {jwt: [{issuer: i, audiences: [a], hmac_secret_file: secret}]}\n" + MINIMAL
    with pytest.raises(DocumentError, match="is a directory"):
        load_inputs(project(tmp_path, config), {})


def test_what_is_to_be_watched_is_named(tmp_path):
    inputs = rich(tmp_path)
    assert str(tmp_path / "secret") in inputs.files
    assert str(tmp_path / "policies/*.yaml") in patterns(inputs)
    assert str(tmp_path / "group.txt") in patterns(inputs)


def test_a_file_that_is_too_large_is_refused(tmp_path, monkeypatch):
    from ext_authz.config import load

    module = __import__("ext_authz.config.load", fromlist=["x"])
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 100)
    path = project(tmp_path, MINIMAL + "#" * 200)
    with pytest.raises(DocumentError, match="larger than 100 bytes"):
        load(path, {})


def test_a_key_file_that_is_not_there_yet_is_named_with_what_makes_it(tmp_path):
    path = project(tmp_path, "identity: {api_keys: {file: keys.yaml}}\n" + MINIMAL)
    with pytest.raises(DocumentError) as caught:
        load_inputs(path, {})
    (one,) = caught.value.diagnostics
    assert (
        one.message == f"cannot read `{tmp_path}/keys.yaml`: no such file or directory; `ext-authz apikey new` makes it"
    )
