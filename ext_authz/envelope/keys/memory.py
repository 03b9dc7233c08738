"""A key provider without a file or a network: the fake that ships with the port.

Law: it answers as the real ones do (the contract test runs on all of them). Its key dies with the process.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ext_authz.envelope.errors import AlteredError, KeyUnavailableError
from ext_authz.envelope.keys import Context, WrappedKey, context_bytes

_NONCE = 12


class MemoryKey:
    """A key-encryption key in memory; `rotate` adds a version, older ones go on opening what they wrapped."""

    def __init__(self, key_id: str = "memory") -> None:
        self.key_id = key_id
        self.versions = [AESGCM.generate_key(256)]
        self.down = False

    def rotate(self) -> None:
        """Add a version and wrap under it from now on."""
        self.versions.append(AESGCM.generate_key(256))

    def wrap(self, data_key: bytes, context: Context) -> WrappedKey:
        """As the port says; KeyUnavailableError while `down`."""
        self._reach()
        nonce = AESGCM.generate_key(128)[:_NONCE]
        blob = nonce + AESGCM(self.versions[-1]).encrypt(nonce, data_key, context_bytes(context))
        return WrappedKey("memory", self.key_id, str(len(self.versions)), blob)

    def unwrap(self, wrapped: WrappedKey, context: Context) -> bytes:
        """As the port says; KeyUnavailableError while `down`."""
        self._reach()
        version = int(wrapped.key_version) if wrapped.key_version.isdecimal() else 0
        if (wrapped.provider, wrapped.key_id) != ("memory", self.key_id) or not 0 < version <= len(self.versions):
            raise KeyUnavailableError(f"wrapped by `{wrapped}`, and the key given is `memory:{self.key_id}`")
        nonce, sealed = wrapped.blob[:_NONCE], wrapped.blob[_NONCE:]
        try:
            return AESGCM(self.versions[version - 1]).decrypt(nonce, sealed, context_bytes(context))
        except (InvalidTag, ValueError):
            raise AlteredError("the wrapped data key was altered, or belongs to another data id or type") from None

    def _reach(self) -> None:
        if self.down:
            raise KeyUnavailableError(f"`memory:{self.key_id}` does not answer")
