"""The `file:` provider: a keyring on this machine wraps with AES-256-GCM.

Law: as for every provider. It protects copies of the data, not the machine that holds both. Random nonces: a version
wraps at most 2**32 keys (SP 800-38D 8.3). Non-goal: the keyring's file (keyring.py).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ext_authz.envelope.errors import AlteredError, KeyUnavailableError
from ext_authz.envelope.keys import Context, WrappedKey, context_bytes
from ext_authz.envelope.keys.keyring import Keyring, read_keyring

_NONCE: Final = 12
_LABEL: Final = b"ext-authz keyring 1\0"


class FileKeys:
    """Wraps under the current version of a keyring, opens what any of its versions wrapped."""

    def __init__(self, keyring: Keyring, shown: str, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self.keyring = keyring
        self.shown = shown
        self.entropy = entropy

    @classmethod
    def load(cls, path: Path) -> "FileKeys":
        """Read the keyring at `path`; raises KeyUnavailableError."""
        return cls(read_keyring(path), f"file:{path}")

    def wrap(self, data_key: bytes, context: Context) -> WrappedKey:
        """As the port says."""
        number, nonce = self.keyring.current, self.entropy(_NONCE)
        cipher = AESGCM(self.keyring.versions[number].key)
        blob = nonce + cipher.encrypt(nonce, data_key, self._about(number, context))
        return WrappedKey("file", self.keyring.id, str(number), blob)

    def unwrap(self, wrapped: WrappedKey, context: Context) -> bytes:
        """As the port says."""
        if (wrapped.provider, wrapped.key_id) != ("file", self.keyring.id):
            raise KeyUnavailableError(f"wrapped by `{wrapped}`, and `{self.shown}` is `file:{self.keyring.id}`")
        known = {str(number): number for number in self.keyring.versions}
        number = known.get(wrapped.key_version)
        if number is None:
            raise KeyUnavailableError(f"wrapped by `{wrapped}`, and `{self.shown}` has no such version")
        nonce, sealed = wrapped.blob[:_NONCE], wrapped.blob[_NONCE:]
        cipher = AESGCM(self.keyring.versions[number].key)
        try:
            return cipher.decrypt(nonce, sealed, self._about(number, context))
        except (InvalidTag, ValueError):
            raise AlteredError("the wrapped data key was altered, or belongs to another data id or type") from None

    def _about(self, number: int, context: Context) -> bytes:
        return _LABEL + bytes.fromhex(self.keyring.id) + number.to_bytes(4, "big") + context_bytes(context)
