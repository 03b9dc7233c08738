"""envoy: what is printed passes our own lint, and fits this sidecar."""

import pytest
from command_line import ran
from projects import MINIMAL, project

CONFIG = """\
server: {workers: 2, listen: ["unix:/run/ext-authz/{worker}.sock"], max_request_bytes: 2MiB}
identity: {mtls: {trust_domains: [corp.example]}}
resources: {routes: [{host: models.corp.example, protocol: open-inference}]}
"""


@pytest.fixture
def config(tmp_path):
    return project(tmp_path, CONFIG + MINIMAL)


def test_the_configuration_fits_the_sidecar_and_is_safe(config, capfd, tmp_path):
    done = ran(capfd, "envoy", "config", "-c", config)
    assert done.status == 0
    for part in ("/run/ext-authz/0.sock", "/run/ext-authz/1.sock", "2097152", "corp.example"):
        assert part in done.out
    (tmp_path / "envoy.yaml").write_text(done.out)
    lint = ran(capfd, "envoy", "lint", tmp_path / "envoy.yaml", "-c", config)
    assert (lint.status, lint.err) == (0, "")
    assert lint.out.endswith("envoy.yaml: 0 unsafe settings, 0 warnings\n")


def test_upstreams_are_named_by_host(config, capfd):
    options = ["--upstream", "models.corp.example=10.0.0.5:8080", "--grpc", "models.corp.example=10.0.0.5:8081"]
    done = ran(capfd, "envoy", "config", *options, "--upstream", "lake.corp.example=lake:9000", "-c", config)
    assert done.status == 0
    assert "lake.corp.example" in done.out
    assert "10.0.0.5" in done.out


@pytest.mark.parametrize("options", [["--upstream", "nonsense"], ["--listen", "nowhere"], ["--authz-tls", "a,b"]])
def test_what_no_safe_configuration_can_be_made_of_is_refused(config, capfd, options):
    done = ran(capfd, "envoy", "config", *options, "-c", config)
    assert (done.status, done.out) == (2, "")


def test_unsafe_settings_fail_the_lint(config, capfd, tmp_path):
    text = ran(capfd, "envoy", "config", "-c", config).out
    (tmp_path / "envoy.yaml").write_text(text.replace("failure_mode_allow: false", "failure_mode_allow: true"))
    assert "failure_mode_allow: false" in text
    done = ran(capfd, "envoy", "lint", tmp_path / "envoy.yaml")
    assert done.status == 1
    assert "failure_mode_allow" in done.out


def test_a_socket_that_nobody_listens_on_is_a_warning(config, capfd, tmp_path):
    text = ran(capfd, "envoy", "config", "-c", config).out
    (tmp_path / "envoy.yaml").write_text(text.replace("/run/ext-authz/1.sock", "/run/ext-authz/7.sock"))
    done = ran(capfd, "envoy", "lint", tmp_path / "envoy.yaml", "-c", config)
    assert done.status == 0
    assert "no socket /run/ext-authz/7.sock: it has /run/ext-authz/0.sock, /run/ext-authz/1.sock [EA062]" in done.out
    assert done.out.endswith("0 unsafe settings, 1 warning\n")


def test_lint_needs_no_configuration_of_ours(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "envoy.yaml").write_text("static_resources: {}\n")
    assert ran(capfd, "envoy", "lint", "envoy.yaml").status in (0, 1)
    assert ran(capfd, "envoy", "lint", "none.yaml").status == 2
    (tmp_path / "envoy.yaml").write_text("a: [\n")
    done = ran(capfd, "envoy", "lint", "envoy.yaml")
    assert done.status == 2
    assert done.err.startswith("envoy.yaml:")
