"""The `vault:` provider: a Transit key of HashiCorp Vault or OpenBao, of an AEAD type (`aes256-gcm96`).

Law: as for every provider; the context is Transit's `associated_data`. Transit's own rewrap takes none, so a rewrap is
decrypt and encrypt. The token never goes over plain HTTP beyond this machine, nor to where a redirect points.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from ext_authz.envelope.errors import AlteredError, KeyUnavailableError
from ext_authz.envelope.keys import Context, WrappedKey, context_bytes

_TIMEOUT: Final = 10
_CIPHERTEXT = re.compile(r"vault:v([1-9][0-9]{0,9}):[A-Za-z0-9+/=]{1,2048}\Z")
_NOT_OURS: Final = ("unable to decrypt", "message authentication failed", "invalid ciphertext")
_SHOWN: Final = 200


class TransitKey:
    """One Transit key; versions are Vault's."""

    def __init__(self, client: Any, mount: str, key: str) -> None:  # noqa: ANN401  hvac has no types
        self.client = client
        self.mount = mount
        self.key = key

    @classmethod
    def connect(cls, mount: str, key: str, environ: Mapping[str, str]) -> "TransitKey":
        """Prepare the client from VAULT_ADDR, VAULT_TOKEN (or `~/.vault-token`), VAULT_NAMESPACE, VAULT_CACERT.

        Raises KeyUnavailableError.
        """
        try:
            import hvac
            import requests
        except ImportError:
            raise KeyUnavailableError("`vault:` needs the extra `vault`: `pip install 'ext-authz[vault]'`") from None
        address = environ.get("VAULT_ADDR", "")
        problem = _address_problem(address)
        if problem:
            raise KeyUnavailableError(f"VAULT_ADDR {problem}")
        session = None
        if urlsplit(address).scheme == "http":
            session = requests.Session()
            session.trust_env = False  # HTTP_PROXY would take the token off this machine
        client = hvac.Client(
            url=address,
            session=session,
            token=environ.get("VAULT_TOKEN") or None,
            verify=environ.get("VAULT_CACERT") or None,
            namespace=environ.get("VAULT_NAMESPACE") or None,
            timeout=_TIMEOUT,
            allow_redirects=False,
        )
        if not client.token:
            raise KeyUnavailableError("no Vault token: set VAULT_TOKEN or log in (`vault login`)")
        return cls(client, mount, key)

    @property
    def id(self) -> str:
        """Mount and name."""
        return f"{self.mount}/{self.key}"

    def wrap(self, data_key: bytes, context: Context) -> WrappedKey:
        """As the port says."""
        answer = self._ask("encrypt_data", plaintext=_base64(data_key), associated_data=_base64(context_bytes(context)))
        text = answer.get("ciphertext")
        found = _CIPHERTEXT.match(text) if isinstance(text, str) else None
        if found is None or not isinstance(text, str):
            raise KeyUnavailableError(f"`vault:{self.id}`: the answer holds no ciphertext")
        return WrappedKey("vault", self.id, found[1], text.encode())

    def unwrap(self, wrapped: WrappedKey, context: Context) -> bytes:
        """As the port says."""
        if (wrapped.provider, wrapped.key_id) != ("vault", self.id):
            raise KeyUnavailableError(f"wrapped by `{wrapped}`, and the key given is `vault:{self.id}`")
        text = wrapped.blob.decode("ascii", "replace")
        found = _CIPHERTEXT.match(text)
        if found is None or found[1] != wrapped.key_version:
            raise AlteredError("the wrapped data key was altered")
        answer = self._ask("decrypt_data", ciphertext=text, associated_data=_base64(context_bytes(context)))
        try:
            return base64.b64decode(answer["plaintext"], validate=True)
        except (KeyError, binascii.Error, ValueError, TypeError):
            raise KeyUnavailableError(f"`vault:{self.id}`: the answer holds no plain text") from None

    def _ask(self, method: str, **parameters: str) -> Mapping[str, Any]:
        import hvac.exceptions
        import requests

        try:
            call = getattr(self.client.secrets.transit, method)
            answer = call(name=self.key, mount_point=self.mount, **parameters)
        except hvac.exceptions.InvalidRequest as error:
            said = _said(error)
            if method == "decrypt_data" and any(text in said for text in _NOT_OURS):
                raise AlteredError("the wrapped data key was altered, or belongs to another data id or type") from None
            raise KeyUnavailableError(f"`vault:{self.id}`: {said}") from None
        except hvac.exceptions.VaultError as error:
            raise KeyUnavailableError(f"`vault:{self.id}`: {_said(error)}") from None
        except requests.RequestException as error:
            raise KeyUnavailableError(f"`vault:{self.id}`: no answer ({type(error).__name__})") from None
        data = answer.get("data") if isinstance(answer, Mapping) else None
        if not isinstance(data, Mapping):
            raise KeyUnavailableError(f"`vault:{self.id}`: the answer is none of Transit's (a redirect?)")
        return data


def _said(error: Any) -> str:  # noqa: ANN401  hvac has no types
    """Return what Vault said, on one line and bounded."""
    text = " ".join(str(each) for each in error.errors or ()) or type(error).__name__
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_SHOWN]


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _address_problem(address: str) -> str:
    if not address:
        return "is not set"
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "is not an `https://` address"
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        return "is plain `http://` beyond this machine: the token and the keys would be readable on the way"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
