"""Which keys a trail has, found by one rule by whoever writes or reads it, and made at the first start.

Law: what the configuration names; else `audit.key` and `audit-signing.key` beside the configuration file; else, where
that folder cannot be written, in `run_dir`. A key is never made where a trail is already there that it cannot open.
"""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ext_authz.audit.checkpoint import Signer
from ext_authz.audit.settings import AuditSettings
from ext_authz.audit.signing import DEFAULT_FILE as SIGNING_FILE
from ext_authz.audit.signing import open_signer
from ext_authz.audit.trail import segments
from ext_authz.envelope.errors import KeyUnavailableError
from ext_authz.envelope.keys import DATA_KEY_BYTES, KeyProvider, KeyReference, open_key
from ext_authz.envelope.keys.keyring import ID_BYTES, KEY_BYTES, create_keyring

KEY_FILE: Final = "audit.key"


class TrailKeys:
    """The keys of the trail in `run_dir`/audit, as the configuration in the folder `base` has them."""

    def __init__(self, settings: AuditSettings, base: Path, run_dir: Path, environ: Mapping[str, str]) -> None:
        self._base = base
        self._run_dir = run_dir
        self._environ = environ
        encryption, signing = settings.encryption, settings.signing
        self._made_here = encryption is None
        self.encryption = encryption.key if encryption is not None else self._default(KEY_FILE)
        self._signing = signing.key if signing is not None else None

    @property
    def signing(self) -> KeyReference:
        """The key that signs checkpoints."""
        return self._signing or self._default(SIGNING_FILE)

    def open(self) -> KeyProvider:
        """Open the key that wraps data keys. Raises KeyUnavailableError."""
        return open_key(self.encryption, self._environ)

    def signer(self) -> Signer:
        """Open the key that signs. Raises KeyUnavailableError."""
        return open_signer(self.signing, self._environ)

    def prepare(self, entropy: Callable[[int], bytes] = os.urandom) -> list[str]:
        """Make the keys that are missing, before anything is written; return the warnings that every start gives.

        Raises KeyUnavailableError where a key cannot be made, or must not be, or where a token does not wrap.
        """
        warnings = []
        if self._made_here:
            path = Path(self.encryption.rest)
            if not path.exists():
                if segments(self._run_dir / "audit"):
                    raise KeyUnavailableError(
                        f"`{path}` is missing, and the trail in `{self._run_dir}` was encrypted with it:"
                        " put it back, or move that trail away"
                    )
                self._make(path, entropy)
            warnings.append(
                f"the audit trail is encrypted with `{path}` on this machine: that protects copies of the trail, not"
                " the trail from whoever reads this machine's files (`audit.encryption` names a key elsewhere)"
            )
        if self.encryption.scheme == "pkcs11":
            # One process tries the PIN before all of them do: tokens count wrong ones, and lock.
            self.open().wrap(bytes(DATA_KEY_BYTES), {"app": "ext-authz", "purpose": "start"})
        elif self.encryption.scheme == "file":
            # A key service is asked later, and may be away; a file that is missing now will not come.
            self.open()
        open_signer(self.signing, self._environ, create=self._signing is None)
        if self._signing is None:
            warnings.append(
                f"the audit trail is signed with `{self.signing.rest}` on this machine: whoever reads that file can"
                " sign another trail (`audit.signing` names a key elsewhere)"
            )
        return warnings

    def _make(self, path: Path, entropy: Callable[[int], bytes]) -> None:
        try:
            create_keyring(path, keyring_id=entropy(ID_BYTES), key=entropy(KEY_BYTES), now=int(time.time()))
        except FileExistsError:
            return
        except OSError as error:
            raise KeyUnavailableError(f"cannot make `{path}`: {(error.strerror or 'failed').lower()}") from None

    def _default(self, name: str) -> KeyReference:
        beside, inside = self._base / name, self._run_dir / name
        if not beside.exists() and (inside.exists() or not os.access(self._base, os.W_OK)):
            return KeyReference("file", str(inside))
        return KeyReference("file", str(beside))
