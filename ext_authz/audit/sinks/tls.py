"""TLS as every sink speaks it: 1.2 at least, certificates and names verified, no way to switch that off."""

import ssl

from ext_authz.audit.sinks import Hold


def client_context(ca_file: str | None, certificate: tuple[str, str] | None) -> ssl.SSLContext:
    """Return a context that trusts `ca_file` alone, or the machine's authorities. Raises Hold on unreadable files."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None:
            context.load_cert_chain(*certificate)
    except (OSError, ValueError) as error:
        what = "the client certificate or key" if ca_file is None else "the CA file, client certificate or key"
        raise Hold(f"{what} cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}") from None
    return context
