"""TLS of the operators' listener: certificate, key and client CA that are read again when they change.

Law: a pair that cannot be used leaves the last good one in place and is told of once; nothing waits for a handshake but
the thread of its own connection; no byte of an answer leaves in the clear. Non-goal: HTTP (admin.py).
"""

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

from cryptography import x509

from ext_authz.server import log
from ext_authz.server.admin_hosts import Names
from ext_authz.server.transport import BindError, TlsFiles

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2 only what keeps past traffic secret and is authenticated (RFC 9325 4.2); those of TLS 1.3 all are."""
_HANDSHAKE: Final = b"\x16"
"""The first byte of a TLS connection (RFC 8446 5.1)."""
_PLAINTEXT: Final = b'{"error":{"code":400,"message":"this listener speaks TLS: use https"}}\n'
_ANSWER_TO_PLAINTEXT: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: "
    + str(len(_PLAINTEXT)).encode()
    + b"\r\n\r\n"
    + _PLAINTEXT
)
_Stamps = tuple[tuple[int, int, int, int], ...]


class PlaintextError(OSError):
    """Somebody spoke something else than TLS, and was told so."""


class AdminTls:
    """Makes TLS connections of accepted ones. Raises BindError when the files cannot be used.

    `wrap` is for the thread that accepts, the rest for any.
    """

    def __init__(self, files: TlsFiles, say: Callable[[str], None] | None = None) -> None:
        self._files = files
        self._say = say or (lambda text: log.line("admin", text, level="error"))
        try:
            self._seen: _Stamps | None = self._stamps()
            self._context = self._load()
            self.names = self._named()
        except (OSError, ValueError) as error:
            raise BindError(f"cannot use `admin.tls` with `{files.certificate}`: {error}") from None

    def wrap(self, connection: socket.socket) -> ssl.SSLSocket:
        """Return the connection as one of TLS, before its handshake, with the files as they are now."""
        self._look()
        return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    @staticmethod
    def shake(connection: ssl.SSLSocket, seconds: float) -> None:
        """Do the handshake within so many seconds. Raises OSError; PlaintextError after saying so in plain HTTP."""
        connection.settimeout(seconds)
        first = socket.socket.recv(connection, 1, socket.MSG_PEEK)
        if first and first != _HANDSHAKE:
            socket.socket.sendall(connection, _ANSWER_TO_PLAINTEXT)
            raise PlaintextError
        connection.do_handshake()

    def proven(self, connection: ssl.SSLSocket) -> bool:
        """Whether the client has shown a certificate as configured; True where none is asked for."""
        if self._files.client_ca is None:
            return True
        shown = cast("dict[str, Any] | None", connection.getpeercert())
        if not shown:
            return False
        sans: tuple[tuple[str, str], ...] = shown.get("subjectAltName", ())
        names = self._files.client_names
        # By kind, as on the other listener: a DNS name that spells a URI is none.
        return not names or any(
            value in names and (kind == "URI") == ("://" in value) for kind, value in sans if kind in ("URI", "DNS")
        )

    def _look(self) -> None:
        """Read the files again if they changed."""
        try:
            stamps: _Stamps | None = self._stamps()
        except OSError:
            stamps = None
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            context, names = self._load(), self._named()
        except (OSError, ValueError) as error:
            self._say(f"`admin.tls` cannot be used with `{self._files.certificate}`, the last good one stays: {error}")
        else:
            self._context, self.names = context, names

    def _stamps(self) -> _Stamps:
        files = self._files
        paths = [files.certificate, files.private_key, *([files.client_ca] if files.client_ca else [])]
        stats = [path.stat() for path in paths]
        return tuple((each.st_mtime_ns, each.st_ctime_ns, each.st_size, each.st_ino) for each in stats)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        # No session outlives its connection: whoever comes again shows the certificate again.
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])
        # A key with a password must not make the server ask for it on a terminal.
        context.load_cert_chain(self._files.certificate, self._files.private_key, password=lambda: "")
        if self._files.client_ca is not None:
            context.load_verify_locations(cafile=self._files.client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL  # probes have none, and may ask whether we live
        return context

    def _named(self) -> Names:
        leaf = x509.load_pem_x509_certificates(self._files.certificate.read_bytes())[0]
        try:
            sans = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return Names()
        hosts = frozenset(name.lower() for name in sans.get_values_for_type(x509.DNSName))
        found = sans.get_values_for_type(x509.IPAddress)
        addresses = (each for each in found if isinstance(each, (ipaddress.IPv4Address, ipaddress.IPv6Address)))
        return Names(hosts, frozenset(addresses))


def say_goodbye(connection: ssl.SSLSocket, seconds: float) -> None:
    """Send close_notify (RFC 8446 6.1), so that the end of the answer cannot be taken for an attacker's cut."""
    with contextlib.suppress(OSError, ValueError):
        connection.settimeout(seconds)
        connection.unwrap()
