"""The types settings are written in."""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from ext_authz.documents import Text
from ext_authz.settings import Cidr, Count, Duration, FilePath, Flag, NonEmptyText, Seconds, Size, Some


def read(kind: Any, text: Any, **context: Any) -> Any:
    value = Text(text, plain=True) if isinstance(text, str) else text
    return TypeAdapter(kind).validate_python(value, context=context or None)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Flag, "true", True), (Flag, "false", False), (Count, "0", 0), (Count, "12", 12), (Duration, "500ms", 0.5), (Duration, "2s", 2),
        (Seconds, "15m", 900), (Seconds, "1h", 3600), (Seconds, "7d", 604800), (Seconds, "0s", 0), (Seconds, "2000ms", 2), (Size, "512", 512),
        (Size, "64KiB", 65536), (Size, "1MiB", 2**20), (Size, "1GiB", 2**30), (Size, "3B", 3), (NonEmptyText, "no", "no"),
        (NonEmptyText, "0123", "0123"), (Cidr, "10.0.0.0/8", ip_network("10.0.0.0/8")), (Cidr, "10.1.2.3", ip_network("10.1.2.3/32")),
        (Cidr, "::1", ip_network("::1/128")), (Cidr, "::ffff:10.0.0.0/104", ip_network("10.0.0.0/8")), (Some[Count], ["1"], (1,)),
    ],
)  # fmt: skip
def test_text_is_read_as_what_the_field_wants(kind: Any, text: Any, value: Any) -> None:
    assert read(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (Flag, "yes", "`yes` is neither"), (Flag, "True", "neither"), (Flag, "1", "neither"), (Flag, None, "neither"), (Count, "-1", "whole number"),
        (Count, "1.5", "whole number"), (Count, "007", "whole number"), (Count, "1_000", "whole number"), (Count, "\u0661", "whole number"),
        (Count, True, "whole number"), (Count, "9" * 20, "whole number"), (Duration, "30", "not a duration"), (Duration, "1.5h", "not a duration"),
        (Duration, "-1s", "not a duration"), (Duration, "1h30m", "not a duration"), (Duration, " 1s", "not a duration"), (Seconds, "500ms", "seconds"),
        (Size, "1KB", "not a size"), (Size, "1 MiB", "not a size"), (Size, "-1", "not a size"), (NonEmptyText, "", "is empty"),
        (NonEmptyText, "a\nb", "control"), (NonEmptyText, ["a"], "is not text"), (NonEmptyText, None, "is not text"), (Cidr, "10.0.0.1/8", "beyond its prefix"),
        (Cidr, "10", "is not a CIDR"), (Cidr, "fe80::1%eth0", "is not a CIDR"), (Cidr, "10.0.0.0/255.0.0.0x", "is not a CIDR"), (Cidr, 7, "is not a CIDR"),
        (FilePath, "", "is empty"), (FilePath, "a\0b", "is not a path"), (Some[Count], [], "is empty"), (Flag, "x" * 500, "`" + "x" * 80 + "…`"),
    ],
)  # fmt: skip
def test_what_would_have_to_be_guessed_is_a_mistake(kind: Any, text: Any, message: str) -> None:
    with pytest.raises(ValidationError, match="1 validation error") as raised:
        read(kind, text)
    assert message in raised.value.errors()[0]["msg"]


def test_paths_are_relative_to_the_file_that_names_them() -> None:
    assert read(FilePath, "a/b.pem") == Path("a/b.pem")
    assert read(FilePath, "a/b.pem", base="/etc/authz") == Path("/etc/authz/a/b.pem")
    assert read(FilePath, "/b.pem", base="/etc/authz") == Path("/b.pem")
    assert read(FilePath, "~/b.pem", base="/etc/authz") == Path("~/b.pem").expanduser()
