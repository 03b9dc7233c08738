"""Who may ask: a client name is a name of its own kind."""

import contextlib
import datetime as dt

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from running_service import SCORER, start
from wire_requests import check_request, read_reply

from ext_authz.server.service import METHOD
from ext_authz.server.transport import ListenOptions, TlsFiles, open_transport

ENVOY = "spiffe://ml.example/ns/mesh/sa/envoy"


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _certificate(ca, subject, sans, *, authority=False):
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    issuer = ca[0].subject if ca else _name(subject)
    made = (
        x509.CertificateBuilder()
        .subject_name(_name(subject)).issuer_name(issuer).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )  # fmt: skip
    if sans:
        made = made.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    return made.sign(ca[1] if ca else key, hashes.SHA256()), key


@pytest.mark.parametrize(
    ("names", "sans"),
    [
        ((ENVOY,), [x509.DNSName(ENVOY)]),
        (("envoy.mesh",), [x509.UniformResourceIdentifier("envoy.mesh")]),
        (("ops@mesh",), [x509.RFC822Name("ops@mesh")]),
    ],
)
@pytest.mark.parametrize("by_threads", [False, True])
def test_a_name_of_another_kind_is_not_the_proxy_s(tmp_path, names, sans, by_threads):
    with _asking(tmp_path, names, sans, by_threads=by_threads) as ask, pytest.raises(grpc.RpcError) as caught:
        ask()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("by_threads", [False, True])
@pytest.mark.parametrize("san", [x509.UniformResourceIdentifier(ENVOY), x509.DNSName("envoy.mesh")])
def test_the_proxy_s_own_name_may_ask(tmp_path, san, by_threads):
    with _asking(tmp_path, (ENVOY, "envoy.mesh"), [san], by_threads=by_threads) as ask:
        assert read_reply(ask()).allowed


@contextlib.contextmanager
def _asking(tmp_path, names, sans, *, by_threads):
    ca = _certificate(None, "ca", [], authority=True)
    server = _certificate(ca, "server", [x509.DNSName("localhost")])
    client = _certificate(ca, "client", sans)
    for name, (cert, key) in {"ca": ca, "server": server}.items():
        (tmp_path / f"{name}.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        (tmp_path / f"{name}.key").write_bytes(_pem(key))
    running = start(tmp_path / "run")
    tls = TlsFiles(tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem", names)
    transport = open_transport("grpcio", running.service, ListenOptions(("127.0.0.1:0",), 1 << 20, tls=tls))
    if by_threads:
        transport._take_calls = lambda: None
    (address,) = transport.start()
    try:
        credentials = grpc.ssl_channel_credentials(
            ca[0].public_bytes(serialization.Encoding.PEM), _pem(client[1]),
            client[0].public_bytes(serialization.Encoding.PEM),
        )  # fmt: skip
        channel = grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", "localhost")])
        message = check_request("GET", "/v2/models/fraud", principal=SCORER)
        yield lambda: channel.unary_unary(METHOD)(message, timeout=5)
    finally:
        transport.stop(0)
        running.close()
