"""Whether the listeners' certificate, key, client CA and token can be used, before anything is started with them.

Law: a key that does not fit its certificate, or a token anybody can guess, is
found at load. Non-goal: whether clients will trust it.
"""

import re
from collections.abc import Iterator
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from ext_authz.config.inputs import Inputs
from ext_authz.config.schema import TlsSettings
from ext_authz.documents import Diagnostic, Path, mark_at

_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm)


MIN_TOKEN: Final = 32
_TOKEN = re.compile(rb"[!-~]+\Z")


def listener_mistakes(inputs: Inputs) -> list[Diagnostic]:
    """Return what is wrong with the files of `server.tls` and `admin`; unreadable files are left out."""
    sections = (("server", inputs.settings.server.tls), ("admin", inputs.settings.admin.tls))
    found: list[tuple[Path, str]] = [
        ((section, "tls", name), message)
        for section, tls in sections
        if tls is not None
        for name, message in _tls(inputs, tls)
    ]
    path = inputs.settings.admin.token_file
    token = None if path is None else inputs.files.get(str(path))
    if token is not None and not admin_token(token):
        message = f"`{path}` holds no token: at least {MIN_TOKEN} printable characters, no blanks"
        found.append((("admin", "token_file"), message))
    return [Diagnostic(mark_at(inputs.node, place), message) for place, message in found]


def admin_token(written: bytes) -> str:
    """Return the bearer token that a file holds; "" where that is none, or one that could be guessed."""
    token = written.strip()
    return token.decode("ascii") if len(token) >= MIN_TOKEN and _TOKEN.match(token) else ""


def _tls(inputs: Inputs, tls: TlsSettings) -> Iterator[tuple[str, str]]:
    certificate, key, authority = (
        None if path is None else inputs.files.get(str(path))
        for path in (tls.certificate, tls.private_key, tls.client_ca)
    )
    public: PublicKeyTypes | None = None
    if certificate is not None:
        try:
            public = x509.load_pem_x509_certificates(certificate)[0].public_key()
        except _UNREADABLE:
            yield "certificate", f"`{tls.certificate}` holds no PEM certificate"
    if authority is not None:
        try:
            x509.load_pem_x509_certificates(authority)
        except _UNREADABLE:
            yield "client_ca", f"`{tls.client_ca}` holds no PEM certificate"
    if key is not None:
        try:
            private = serialization.load_pem_private_key(key, None)
        except _UNREADABLE:
            yield "private_key", f"`{tls.private_key}` holds no unencrypted PEM private key"
            return
        if public is not None and private.public_key() != public:
            yield "private_key", f"`{tls.private_key}` is not the key of `{tls.certificate}`"
