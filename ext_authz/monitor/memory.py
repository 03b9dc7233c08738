"""What the monitor remembers across restarts: one file, encrypted as the trail is, replaced whole.

Law: after a crash the file before or after is there; one that was damaged counts as none, one whose key cannot be had
now is waited for. Non-goal: what is in it.
"""

import io
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from ext_authz.envelope.errors import AlteredError, UnsupportedError
from ext_authz.envelope.files import replacing
from ext_authz.envelope.format import DataName
from ext_authz.envelope.keys import KeyProvider
from ext_authz.envelope.stream import seal, unseal

FILE_NAME: Final = "monitor.state"
VERSION: Final = 1
MAX_BYTES: Final = 4 * 2**30
_NAME: Final = DataName("ext-authz-monitor", "state")


class Memory:
    """The file in `folder`; `open_key` gives the trail's key."""

    def __init__(self, folder: Path, open_key: Callable[[], KeyProvider]) -> None:
        self.path = folder / FILE_NAME
        self._open_key = open_key

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file. Raises OSError, KeyUnavailableError."""
        plain = zlib.compress(orjson.dumps({"version": VERSION, **state}), 1)
        with replacing(self.path) as file:
            seal(io.BytesIO(plain), file, self._open_key(), _NAME)

    def load(self) -> dict[str, Any] | None:
        """Return what was saved; None where nothing was. Raises ValueError for a damaged file, KeyUnavailableError."""
        out = io.BytesIO()
        try:
            with self.path.open("rb") as file:
                unseal(file, out, self._open_key(), _NAME)
            unpacked = zlib.decompressobj()
            state = orjson.loads(unpacked.decompress(out.getvalue(), MAX_BYTES))
        except FileNotFoundError:
            return None
        except (AlteredError, UnsupportedError, zlib.error, ValueError) as error:
            raise ValueError(f"{self.path} is damaged: {error}") from None
        if not isinstance(state, dict) or state.get("version") != VERSION:
            raise ValueError(f"{self.path} is of another version")
        return state
