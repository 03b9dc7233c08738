"""Whether the listener's certificate, key and client CA can be used, before anything is started with them.

Law: a key that does not fit its certificate is found at load. Non-goal: whether clients will trust it.
"""

from collections.abc import Iterator

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from ext_authz.config.inputs import Inputs
from ext_authz.documents import Diagnostic, mark_at

_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm)


def listener_tls_mistakes(inputs: Inputs) -> list[Diagnostic]:
    """Return what is wrong with the files of `server.tls`; files that could not be read are left out."""
    return [Diagnostic(mark_at(inputs.node, ("server", "tls", name)), message) for name, message in _mistakes(inputs)]


def _mistakes(inputs: Inputs) -> Iterator[tuple[str, str]]:
    tls = inputs.settings.server.tls
    if tls is None:
        return
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
