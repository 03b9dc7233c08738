"""Keys that sign checkpoints: an Ed25519 key in a file, or one that Vault or OpenBao Transit holds.

Law: a private key is read only where nobody else can read or write it, and no message repeats anything of it.
Non-goal: what is signed (checkpoint.py).
"""

import base64
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from ext_authz.audit.checkpoint import KEY_NAME, Signer, SigningError, VerifierKey
from ext_authz.envelope.errors import KeyUnavailableError
from ext_authz.envelope.files import exposed, replacing
from ext_authz.envelope.keys import KeyReference

DEFAULT_FILE: Final = "audit-signing.key"
"""Made beside the configuration file where `audit.signing` names none."""
PUBLIC_SUFFIX: Final = ".pub"

_MAX_BYTES: Final = 16 * 1024
_SIGNATURE_BYTES: Final = 64
_VAULT_SIGNATURE = re.compile(r"vault:v([1-9][0-9]{0,9}):([A-Za-z0-9+/]{86}==)\Z")


class FileSigner:
    """An Ed25519 private key (PKCS #8, PEM) in a file of mode 0600."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self._key = VerifierKey(KEY_NAME, private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    @property
    def key(self) -> VerifierKey:
        """As the port says."""
        return self._key

    def sign(self, message: bytes) -> bytes:
        """As the port says."""
        return self._private.sign(message)

    @classmethod
    def load(cls, path: Path) -> "FileSigner":
        """Read the key. Raises KeyUnavailableError, also where it is not this user's (or root's) alone."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise KeyUnavailableError(f"cannot read `{path}`: {(error.strerror or 'failed').lower()}") from None
        try:
            found = os.fstat(descriptor)
            problem = exposed(found, path)
            raw = b"" if problem else os.read(descriptor, _MAX_BYTES)
        finally:
            os.close(descriptor)
        if problem:
            raise KeyUnavailableError(f"`{path}` {problem}")
        try:
            private = load_pem_private_key(raw, None)
        except (ValueError, TypeError):
            raise KeyUnavailableError(f"`{path}` is not an unencrypted private key in PEM") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyUnavailableError(f"`{path}` is not an Ed25519 key")
        return cls(private)

    @classmethod
    def ensure(cls, path: Path, entropy: Callable[[int], bytes] = os.urandom) -> "FileSigner":
        """Read the key, made (0600, with `PATH.pub` beside it) where there is none. Raises KeyUnavailableError.

        Several processes may start at once: the first one's key is everybody's.
        """
        if not path.exists():
            private = Ed25519PrivateKey.from_private_bytes(entropy(32))
            text = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            try:
                with suppress(FileExistsError), replacing(path, overwrite=False) as file:
                    file.write(text)
            except OSError as error:
                raise KeyUnavailableError(f"cannot make `{path}`: {(error.strerror or 'failed').lower()}") from None
        made = cls.load(path)
        public = path.with_name(path.name + PUBLIC_SUFFIX)
        if not public.exists():
            with suppress(OSError), replacing(public, overwrite=False) as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(f"{made.key}\n".encode())
        return made


class TransitSigner:
    """A Transit key of the type `ed25519`; the version that is the newest when the process starts."""

    def __init__(self, client: Any, mount: str, name: str) -> None:  # noqa: ANN401  hvac has no types
        self._client = client
        self._mount = mount
        self._name = name
        self._version, self._key = self._read()

    @property
    def key(self) -> VerifierKey:
        """As the port says."""
        return self._key

    def sign(self, message: bytes) -> bytes:
        """As the port says."""
        try:
            answer = self._client.secrets.transit.sign_data(
                name=self._name,
                hash_input=base64.b64encode(message).decode(),
                key_version=self._version,
                mount_point=self._mount,
            )
            found = _VAULT_SIGNATURE.match(answer["data"]["signature"])
        except Exception as error:  # noqa: BLE001  hvac and requests raise whatever they like
            raise SigningError(f"`vault:{self._mount}/{self._name}`: no signature ({type(error).__name__})") from None
        if found is None or int(found[1]) != self._version:
            raise SigningError(f"`vault:{self._mount}/{self._name}`: the answer holds no signature of its version")
        return base64.b64decode(found[2])

    def _read(self) -> tuple[int, VerifierKey]:
        shown = f"`vault:{self._mount}/{self._name}`"
        try:
            data = self._client.secrets.transit.read_key(name=self._name, mount_point=self._mount)["data"]
            kind, version = str(data["type"]), int(data["latest_version"])
            public = _public(data["keys"][str(version)]["public_key"]) if kind == "ed25519" else b""
        except Exception as error:  # noqa: BLE001
            raise KeyUnavailableError(f"{shown}: its public key cannot be read ({type(error).__name__})") from None
        if kind != "ed25519":
            raise KeyUnavailableError(f"{shown} is not of the type `ed25519`")
        return version, VerifierKey(KEY_NAME, public)


def _public(text: str) -> bytes:
    """Vault gives the raw key in base64; OpenBao may give PEM."""
    if text.startswith("-----"):
        key = load_pem_public_key(text.encode())
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("not an Ed25519 key")
        return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    raw = base64.b64decode(text, validate=True)
    Ed25519PublicKey.from_public_bytes(raw)
    return raw


def open_signer(reference: KeyReference, environ: Mapping[str, str], *, create: bool = False) -> Signer:
    """Return what signs with the key named; with `create` a missing key file is made. Raises KeyUnavailableError."""
    match reference.scheme:
        case "file":
            path = Path(reference.rest)
            return FileSigner.ensure(path) if create else FileSigner.load(path)
        case "vault":
            from ext_authz.envelope.keys.vault import TransitKey

            mount, _, name = reference.rest.rpartition("/")
            connected = TransitKey.connect(mount or "transit", name, environ)
            return TransitSigner(connected.client, connected.mount, connected.key)
        case _:
            raise KeyUnavailableError(f"`{reference}`: checkpoints are signed by `file:PATH` or `vault:KEY` only")
