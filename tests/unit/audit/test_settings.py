"""The `audit:` section: what exists is read, what does not is refused by name."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ext_authz.audit.settings import AuditSettings
from ext_authz.documents import load, to_plain

BASE = {"base": Path("/etc/ext-authz")}


def read(text: str) -> AuditSettings:
    return AuditSettings.model_validate(to_plain(load(text, "f.yaml")), context=BASE)


def test_sinks_are_read_as_written_and_paths_are_relative_to_the_file() -> None:
    settings = read("sinks: [{type: stdout}, {type: file, path: events.jsonl, format: native}]\nspool: {on_full: deny}")
    assert [sink.type for sink in settings.sinks] == ["stdout", "file"]
    assert settings.sinks[1].path == Path("/etc/ext-authz/events.jsonl")  # type: ignore[union-attr]


def test_keys_and_limits_are_read_and_key_files_are_relative_to_the_file() -> None:
    settings = read(
        "encryption: {key: 'file:k'}\nsigning: {key: 'vault:transit/sign'}\n"
        "redact: [/context/path]\nspool: {max_bytes: 1GiB, retain: 7d, on_full: drop, segment_bytes: 1MiB, segment_age: 10m}"
    )
    assert settings.encryption is not None
    assert str(settings.encryption.key) == "file:/etc/ext-authz/k"
    assert settings.signing is not None
    assert str(settings.signing.key) == "vault:transit/sign"
    spool = settings.spool
    assert (settings.redact, spool.retain) == (("/context/path",), 7 * 86_400)
    assert (spool.max_bytes, spool.on_full, spool.segment_bytes, spool.segment_age) == (2**30, "drop", 2**20, 600)


def test_nothing_needs_to_be_said() -> None:
    assert AuditSettings().sinks == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sinks: [{type: stdot}]", "`stdot` is not a kind of sink, did you mean `stdout`?"),
        ("sinks: [{path: x}]", "a sink needs a `type`"),
        ("sinks: [{type: [stdout]}]", "is not a kind of sink"),
        ("sinks: [{type: file}]", "Field required"),
        ("sinks: [{type: stdout, path: x}]", "Extra inputs"),
        ("sinks: [{type: stdout, format: jason}]", "`jason` is not a format"),
        ("sinks: [stdout]", "a sink is a mapping such as `{type: stdout}`"),
        ("sinks: [3]", "`3` is not a kind of sink"),
        ("sinks: [{type: stdout}, {type: stdout}]", "two sinks write to the same place"),
        ("sinks: [{type: stdout, name: a}, {type: stdout, name: b}]", "two sinks write to the same place"),
        ("sinks: [{type: stdout, name: a}, {type: file, path: x, name: a}]", "two sinks are called `a`"),
        (
            "sinks: [{type: http, url: 'https://h/a'}, {type: http, url: 'https://h/b'}]",
            "two sinks are called `http:h`: give one a `name`",
        ),
        ("sinks: [{type: http, url: 'http://h/a'}]", "neither `https` nor on loopback"),
        ("sinks: [{type: http, url: 'http://127.0.0.1.h/a'}]", "neither `https` nor on loopback"),
        ("sinks: [{type: http, url: 'https://u:p@h/a'}]", "holds no credentials"),
        ("sinks: [{type: http, url: 'ftp://h/a'}]", "is not a URL of `http` or `https`"),
        ("sinks: [{type: http, url: 'https://h/a', headers: {host: x}}]", "`host` is set by the sink itself"),
        ("sinks: [{type: http, url: 'https://h/a', headers: {'a b': x}}]", "is not a header's name"),
        ('sinks: [{type: http, url: "https://h/a", headers: {a: "x\\r\\ny: z"}}]', "one line of printable ASCII"),
        ("sinks: [{type: http, url: 'https://h/a', tls: {certificate: c.pem}}]", "go together"),
        ("sinks: [{type: http, url: 'https://h', format: cef, body: array}]", "`body: array` does not go with `cef`"),
        ("sinks: [{type: elasticsearch, url: 'https://h', format: leef}]", "`leef` is no JSON, which this sink needs"),
        ("sinks: [{type: elasticsearch, url: 'https://h', username: u}]", "`username` and `password` go together"),
        (
            "sinks: [{type: elasticsearch, url: 'https://h', api_key: k, username: u, password: p}]",
            "`api_key` and `username`: one of them",
        ),
        ("sinks: [{type: splunk, url: 'https://h'}]", "Field required"),
        ("sinks: [{type: otlp, url: 'http://h:4317', protocol: grpc}]", "neither `https` nor on loopback"),
        ("sinks: [{type: syslog, address: 'h:6514', transport: tcp}]", "`transport: tcp` beyond loopback"),
        ("sinks: [{type: syslog, address: 'h:0'}]", "is not an address"),
        ("sinks: [{type: syslog, address: 'h:1', facility: '24'}]", "less than or equal to 23"),
        ("sinks: [{type: kafka, brokers: [k], topic: t}]", "`k` is not an address"),
        ("sinks: [{type: kafka, brokers: ['k:1'], topic: t, password: p}]", "`username` and `password` go together"),
        ("sinks: [{type: redis, url: 'redis://h'}]", "neither `rediss` nor on loopback"),
        ("sinks: [{type: redis, url: 'rediss://:pw@h'}]", "holds no credentials"),
        ("sinks: [{type: redis, url: 'rediss://h/x'}]", "the number of a database"),
        ("sinks: [{type: nats, url: 'nats://h'}]", "neither `tls` nor on loopback"),
        ("sinks: [{type: s3, bucket: b, endpoint: 'http://h'}]", "neither `https` nor on loopback"),
        ("sinks: [{type: stdout, batch: {events: 0}}]", "greater than or equal to 1"),
        ("sinks: [{type: file, path: a}, {type: file, path: x/../a}]", "two sinks write to the same place"),
        ("sink: []", "Extra inputs"),
        ("redact: [context]", "`context` is not a JSON Pointer such as `/context/path`"),
        ("redact: [/a~2]", "after `~` stands `0` or `1`"),
        ("redact: [/seq]", "`seq` cannot be redacted"),
        ("encryption: {}", "Field required"),
        ("encryption: {key: x}", "is not a key such as `file:PATH`"),
        ("encryption: {key: 'fil:x'}", "did you mean `file`?"),
        ("signing: {key: 'awskms:alias/x'}", "AWS KMS has no Ed25519 key"),
        ("spool: {max_bytes: 1000}", "less than 1MiB"),
        ("spool: {segment_bytes: 2GiB}", "not from 64KiB to 1GiB"),
        ("spool: {segment_age: 1s}", "not from 10s to 7d"),
        ("spool: {on_full: panic}", "`panic` is not `deny` or `drop`"),
    ],
)
def test_a_mistake_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(text)
    found: list[Any] = [error["msg"] for error in caught.value.errors()]
    assert any(message in each for each in found), found


def test_what_authenticates_us_is_shown_nowhere() -> None:
    settings = read("sinks: [{type: http, url: 'https://h/s3cr3t?k=s3cr3t', headers: {Authorization: Bearer s3cr3t}}]")
    (sink,) = settings.sinks
    assert "s3cr3t" not in sink.label
    assert "Bearer" not in repr(sink)
    assert sink.headers["authorization"].get_secret_value() == "Bearer s3cr3t"  # type: ignore[union-attr]


def test_brokers_are_spoken_to_in_the_clear_only_on_loopback_or_where_that_was_said() -> None:
    def plaintext(more: str) -> bool:
        (sink,) = read(f"sinks: [{{type: kafka, topic: t, {more}}}]").sinks
        return sink.plaintext  # type: ignore[union-attr]

    assert not plaintext("brokers: ['k:1']")
    assert not plaintext("brokers: ['127.0.0.1:1', 'k:1']")
    assert not plaintext("brokers: ['127.0.0.1:1'], username: u, password: p")
    assert not plaintext("brokers: ['127.0.0.1:1'], tls: {ca_file: x}")
    assert plaintext("brokers: ['127.0.0.1:1']")
    assert plaintext("brokers: ['k:1'], unsafe_plaintext: true")


@pytest.mark.parametrize(
    "sink",
    [
        "type: splunk, url: 'https://h', token: s3cr3t",
        "type: elasticsearch, url: 'https://h', username: s3cr3t, password: s3cr3t",
        "type: kafka, brokers: ['k:1'], topic: t, username: s3cr3t, password: s3cr3t",
        "type: redis, url: 'rediss://h', username: s3cr3t, password: s3cr3t",
        "type: nats, url: 'tls://h', token: s3cr3t",
    ],
)
def test_no_kind_of_sink_shows_its_secret(sink: str) -> None:
    settings = read(f"sinks: [{{{sink}}}]")
    assert "s3cr3t" not in repr(settings) + settings.sinks[0].label + settings.model_dump_json()
