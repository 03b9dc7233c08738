"""Data keys of the trail's segments: made and wrapped for the writer, found and unwrapped for readers.

Law: one fresh data key for each segment, never used again; what is wrapped is bound to log and number; the key
service is asked on a thread of its own, never on the check path. Non-goal: which key (settings.py), frames.
"""

import base64
import binascii
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import orjson

from ext_authz.audit.segment import HEADER_BYTES, Header, Segment, read_header
from ext_authz.envelope.errors import AlteredError, EnvelopeError, KeyUnavailableError
from ext_authz.envelope.files import replacing
from ext_authz.envelope.keys import DATA_KEY_BYTES, Context, KeyProvider, WrappedKey

SCHEMA: Final = "ext_authz.segment_key/1"
SALT_BYTES: Final = 32
RETRY_SECONDS: Final = 5.0
_MAX_KNOWN: Final = 1024
_POLL_SECONDS: Final = 0.002
_MAX_KEY_FILE: Final = 64 * 1024

OpenKey = Callable[[], KeyProvider]
"""Opens the key of the trail when it is first needed. Raises KeyUnavailableError."""


class ShreddedError(KeyUnavailableError):
    """A segment's wrapped key is gone: its content can never be read again."""


def context_of(log_id: str, number: int) -> Context:
    """Return what the key provider binds to a segment's wrapped key."""
    return {"app": "ext-authz", "log_id": log_id, "segment": str(number)}


def key_path(segment: Path) -> Path:
    """Return where the wrapped key of the segment file `segment` stands."""
    return segment.with_suffix(".key")


def write_key(path: Path, wrapped: WrappedKey) -> None:
    """Write a wrapped key (0600), whole and durable or not at all, in place of an older one. Raises OSError."""
    plain = {
        "schema": SCHEMA,
        "provider": wrapped.provider,
        "key_id": wrapped.key_id,
        "key_version": wrapped.key_version,
        "wrapped": base64.b64encode(wrapped.blob).decode(),
    }
    with replacing(path) as file:
        file.write(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE))


def read_key(path: Path) -> WrappedKey:
    """Read a wrapped key. Raises ShreddedError where there is none, AlteredError where it is damaged, OSError."""
    try:
        with open(path, "rb", opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise AlteredError("the wrapped key is no file")
            plain = orjson.loads(file.read(_MAX_KEY_FILE))
        if plain["schema"] != SCHEMA:
            raise AlteredError("the wrapped key is of another version")
        provider, key_id, version, blob = (plain[name] for name in ("provider", "key_id", "key_version", "wrapped"))
        if not all(isinstance(text, str) for text in (provider, key_id, version)):
            raise AlteredError("the wrapped key was altered")
        return WrappedKey(provider, key_id, version, base64.b64decode(blob, validate=True))
    except FileNotFoundError:
        raise ShreddedError("its key was deleted: it can never be read again") from None
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise AlteredError("the wrapped key was altered") from None


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for whoever writes a pipe that stands there."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


class DataKeys:
    """The writer's data keys: one for the segment begun next is always ready, if the key service answers at all.

    Used by the thread that looks after the log; wrapping happens on threads of its own.
    """

    def __init__(
        self,
        provider: KeyProvider,
        log_id: str,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
        monotonic: Callable[[], float] = time.monotonic,
        reopen: OpenKey | None = None,
    ) -> None:
        self.log_id = log_id
        self.failures = 0
        self.last_error = ""
        self._provider = provider
        self._reopen = reopen
        self._under = ""
        self._rotations: list[tuple[str, str]] = []
        self._entropy = entropy
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._ready: dict[int, tuple[bytes, WrappedKey]] = {}
        self._busy = False
        self._not_before = 0.0

    def wrap(self, number: int) -> None:
        """Make the data key of segment `number` now; may take seconds. Raises KeyUnavailableError."""
        data_key = self._entropy(DATA_KEY_BYTES)
        if self._under and self._reopen is not None:
            self._provider = self._reopen()
        wrapped = self._provider.wrap(data_key, context_of(self.log_id, number))
        with self._lock:
            self._ready.setdefault(number, (data_key, wrapped))
            before, self._under = self._under, str(wrapped)
            if before and before != self._under:
                self._rotations.append((before, self._under))

    def rotation(self) -> tuple[str, str] | None:
        """Return the next change of the wrapping key that was not returned before, as (before, after)."""
        with self._lock:
            return self._rotations.pop(0) if self._rotations else None

    def prepare(self, number: int) -> None:
        """See to it that the key of segment `number` will be there; returns at once."""
        with self._lock:
            if self._busy or number in self._ready or self._monotonic() < self._not_before:
                return
            self._busy = True
        threading.Thread(target=self._wrap, args=(number,), name="audit-keys", daemon=True).start()

    def ready(self, number: int) -> bool:
        """Whether the key of segment `number` is there."""
        with self._lock:
            return number in self._ready

    def wait(self, number: int, seconds: float) -> bool:
        """See to it that the key of segment `number` is there, for at most `seconds`; whether it is."""
        end = self._monotonic() + seconds
        while not self.ready(number):
            self.prepare(number)
            left = end - self._monotonic()
            if left <= 0 or (not self._busy and not self.ready(number) and self._monotonic() < self._not_before):
                return self.ready(number)
            time.sleep(min(left, _POLL_SECONDS))
        return True

    def take(self, number: int) -> tuple[bytes, WrappedKey] | None:
        """Return the data key of segment `number` once and for all; None while it is not wrapped."""
        with self._lock:
            return self._ready.pop(number, None)

    def salt(self) -> bytes:
        """Return a fresh salt."""
        return self._entropy(SALT_BYTES)

    def _wrap(self, number: int) -> None:
        problem = ""
        try:
            self.wrap(number)
        except Exception as error:  # noqa: BLE001  whatever a key service's library raises, it is asked again
            problem = str(error) or type(error).__name__
        with self._lock:
            self._busy = False
            self.last_error = problem
            if problem:
                self.failures += 1
                self._not_before = self._monotonic() + RETRY_SECONDS


class Opener:
    """Opens segments for readers: the key of the trail is opened once, each data key unwrapped once."""

    def __init__(self, open_key: OpenKey | None) -> None:
        self._open_key = open_key
        self._provider: KeyProvider | None = None
        self._known: dict[bytes, Segment] = {}

    def segment(self, path: Path) -> Segment | None:
        """Return the segment in a file; None while its header is not written whole.

        Raises AlteredError, ShreddedError, KeyUnavailableError, UnsupportedError, OSError.
        """
        with path.open("rb") as file:
            data = file.read(HEADER_BYTES)
        if len(data) < HEADER_BYTES:
            return None
        known = self._known.get(data)
        if known is None:
            header, mac = read_header(data)
            known = Segment(header, mac, self.data_key(path, header))
            if len(self._known) >= _MAX_KNOWN:
                self._known = {}
            self._known[data] = known
        return known

    def data_key(self, path: Path, header: Header) -> bytes:
        """Unwrap the data key of the segment file `path`. Raises as `segment` does."""
        wrapped = read_key(key_path(path))
        if self._provider is None:
            if self._open_key is None:
                raise KeyUnavailableError("the trail is encrypted, and no key was given")
            self._provider = self._open_key()
        return self._provider.unwrap(wrapped, context_of(header.log_id, header.number))


def rewrap_key(path: Path, header: Header, current: KeyProvider, target: KeyProvider) -> tuple[WrappedKey, WrappedKey]:
    """Wrap a segment's data key under the newest version of `target`; the segment itself is not touched.

    Returns the key before and after. Raises AlteredError, KeyUnavailableError, OSError; the old one stays until the
    new one was seen to open.
    """
    place, context = key_path(path), context_of(header.log_id, header.number)
    before = read_key(place)
    data_key = current.unwrap(before, context)
    after = target.wrap(data_key, context)
    try:
        opened = target.unwrap(after, context)
    except EnvelopeError as error:
        raise KeyUnavailableError(f"the new key does not open what it wraps, nothing was changed: {error}") from error
    if opened != data_key:
        raise KeyUnavailableError("the new key does not open what it wraps, nothing was changed")
    write_key(place, after)
    return before, after
