"""Signed bundles for tests, and a web server on loopback that has one and can be told to misbehave."""

import gzip
import hashlib
import io
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ext_authz.bundle.archive import write_archive
from ext_authz.bundle.keys import sign, write_signatures
from ext_authz.bundle.manifest import MANIFEST, SIGNATURES, Manifest, entry_of

POLICY = b'policies:\n  - {id: ok, subjects: [{any: true}], resources: [{type: "*"}], actions: ["*"]}\n'
FILES = {"policies/a.yaml": POLICY, "policies/a_test.yaml": b"tests: []\n", "resources/r.yaml": b"catalog: []\n"}
NOW = 1_800_000_000
DAY = 86_400


def key(number: int = 1) -> Ed25519PrivateKey:
    """The same key for the same number."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


KEY = key()


def public_pem(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def manifest_of(files=FILES, name="ml-prod", revision=7, created=NOW, expires=NOW + 30 * DAY):
    return Manifest(name, revision, created, expires, tuple(entry_of(*each) for each in sorted(files.items())))


def signed_by(manifest: bytes, *keys) -> bytes:
    return write_signatures(dict(sign(manifest, each) for each in keys))


def bundle(files=FILES, *, keys=(KEY,), name="ml-prod", revision=7, created=NOW, expires=NOW + 30 * DAY) -> bytes:
    """Return a good bundle."""
    data = manifest_of(files, name, revision, created, expires).to_bytes()
    return write_archive([(MANIFEST, data), (SIGNATURES, signed_by(data, *keys)), *sorted(files.items())])


def fresh(policies: str, resources: str = "", *, revision=1, keys=(KEY,), name="ml-prod", lasts=DAY) -> bytes:
    """Return a good bundle of today."""
    files = {"policies/p.yaml": policies.encode()}
    if resources:
        files["resources/r.yaml"] = resources.encode()
    now = int(time.time())
    return bundle(files, keys=keys, name=name, revision=revision, created=now - 60, expires=now + lasts)


def members(archive: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        return [(each.name, tar.extractfile(each).read()) for each in tar]


def rebuilt(archive: bytes, change) -> bytes:
    """Return the archive with its list of members changed by `change(list)`."""
    return write_archive(change(members(archive)))


def foreign(archive: bytes, *entries: tuple[tarfile.TarInfo, bytes], where=2, form=tarfile.USTAR_FORMAT) -> bytes:
    """Return the archive as another program wrote it, with `entries` put in at `where`."""
    out = io.BytesIO()
    listed = [(tarfile.TarInfo(name), data) for name, data in members(archive)]
    listed[where:where] = entries
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info, data in listed:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(out.getvalue())


class BundleServer:
    """Serves `/bundle.tar.gz`; `archive`, `mode` and `token` may change at any time."""

    def __init__(self, archive: bytes) -> None:
        self.archive = archive
        self.mode = "good"
        self.token = ""
        self.location = "https://elsewhere.example/bundle.tar.gz"
        self.statuses: list[int] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_) -> None:
                pass

            def do_GET(self) -> None:
                status, body, etag = owner.reply(self.headers)
                owner.statuses.append(status)
                self.send_response(status)
                if etag:
                    self.send_header("etag", etag)
                if status == 302:
                    self.send_header("location", owner.location)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/bundle.tar.gz"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def reply(self, headers) -> tuple[int, bytes, str]:
        if self.token and headers.get("authorization") != f"Bearer {self.token}":
            return 401, b"", ""
        if self.mode == "500":
            return 500, b"broken", ""
        if self.mode == "redirect":
            return 302, b"", ""
        if self.mode == "no etag":
            return 200, self.archive, ""
        etag = f'"{hashlib.sha256(self.archive).hexdigest()[:16]}"'
        return (304, b"", etag) if headers.get("if-none-match") == etag else (200, self.archive, etag)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
