"""Key sets that were fetched: what travels between processes and what is kept over a restart.

Law: keys count only for the source they came from, and no longer than the
issuer's `max_stale`. Non-goal: fetching (server/keys.py does) and files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from ext_authz.authn.jwks import KeySet, KeySetError, from_jwks
from ext_authz.authn.jwt_settings import JwtSettings

NS: Final = 1_000_000_000
NO_KEYS: Final = KeySet((), "")


@dataclass(frozen=True, slots=True)
class RemoteKeys:
    """One issuer's JWK set as fetched. `source` is the URL that led to it, `fetched_at` Unix seconds."""

    source: str
    fetched_at: int
    jwks: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """All fetched keys by issuer. `absent` are the `kid`s that were looked for and are in no set now, by issuer."""

    keys: Mapping[str, RemoteKeys] = field(default_factory=dict)
    absent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Serialise as JSON; `from_bytes` gives an equal value."""
        keys = {name: [each.source, each.fetched_at, each.jwks] for name, each in self.keys.items()}
        return orjson.dumps({"version": 1, "keys": keys, "absent": dict(self.absent)})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Fetched":
        """Restore what `to_bytes` gave. Raises ValueError when it is anything else."""
        try:
            plain = orjson.loads(data)
            if plain["version"] != 1:
                raise ValueError("written by another version")
            keys = {_text(name): RemoteKeys(_text(a), _whole(b), _text(c)) for name, (a, b, c) in plain["keys"].items()}
            absent = {_text(name): tuple(map(_text, kids)) for name, kids in plain["absent"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("these are no fetched keys") from error
        return cls(keys, absent)

    def of(self, settings: JwtSettings) -> tuple[KeySet, int]:
        """Return an issuer's keys and until when they count (Unix nanoseconds); (NO_KEYS, 0) where there are none."""
        found = self.keys.get(settings.issuer)
        if found is None or found.source != settings.source:
            return NO_KEYS, 0
        try:
            return usable(settings, found.jwks), (found.fetched_at + settings.max_stale) * NS
        except KeySetError:
            return NO_KEYS, 0


NOTHING_FETCHED: Final = Fetched()


def usable(settings: JwtSettings, jwks: str) -> KeySet:
    """Read a fetched JWK set. Raises KeySetError, also where no key is for the issuer's algorithms."""
    keys = from_jwks(jwks.encode())
    if not any(settings.accepted & key.algorithms for key in keys.keys):
        raise KeySetError([f"no key is for {', '.join(sorted(settings.accepted))}"])
    return keys


def _text(value: Any) -> str:  # noqa: ANN401  JSON of our own
    if not isinstance(value, str):
        raise TypeError
    return value


def _whole(value: Any) -> int:  # noqa: ANN401
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value
