"""A small HTTP server that answers as Vault's Transit engine documents: encrypt, decrypt, key versions, its errors.

Not a Vault: written from its API documentation, for tests.
"""

import base64
import binascii
import http.server
import json
import os
import re
import threading
from contextlib import contextmanager

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TOKEN = "hvs.test-token"
PATH = re.compile(r"/v1/(?P<mount>.+)/(?P<verb>encrypt|decrypt)/(?P<key>[^/]+)")


class Transit:
    """Mounts with keys with versions; `answer` replaces every answer where it is set; requests are remembered."""

    def __init__(self):
        self.keys = {("transit", "ml-data"): [os.urandom(32)], ("kms/prod", "ml-data"): [os.urandom(32)]}
        self.minimum = 1
        self.answer = None
        self.requests = []
        self.address = ""

    def handle(self, path, token, body):
        self.requests.append((path, token, body))
        if self.answer is not None:
            return self.answer
        if token != TOKEN:
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        found = PATH.fullmatch(path)
        if found is None:
            return 404, {"errors": []}
        versions = self.keys.get((found["mount"], found["key"]))
        if versions is None:
            return 400, {"errors": ["encryption key not found"]}
        try:
            about = base64.b64decode(body.get("associated_data", ""), validate=True)
            return getattr(self, found["verb"])(versions, body, about)
        except (binascii.Error, KeyError):
            return 400, {"errors": ["failed to base64-decode plaintext"]}

    def encrypt(self, versions, body, about):
        nonce = os.urandom(12)
        sealed = nonce + AESGCM(versions[-1]).encrypt(nonce, base64.b64decode(body["plaintext"], validate=True), about)
        text = f"vault:v{len(versions)}:{base64.b64encode(sealed).decode()}"
        return 200, {"data": {"ciphertext": text, "key_version": len(versions)}}

    def decrypt(self, versions, body, about):
        found = re.fullmatch(r"vault:v(\d+):(.+)", body["ciphertext"])
        if found is None:
            return 400, {"errors": ["invalid ciphertext: no prefix"]}
        version, sealed = int(found[1]), base64.b64decode(found[2], validate=True)
        if version < self.minimum:
            return 400, {"errors": ["ciphertext or signature version is disallowed by policy (too old)"]}
        if version > len(versions):
            return 400, {"errors": ["invalid ciphertext: version is too new"]}
        try:
            plain = AESGCM(versions[version - 1]).decrypt(sealed[:12], sealed[12:], about)
        except (InvalidTag, ValueError):
            return 400, {"errors": ["cipher: message authentication failed"]}
        return 200, {"data": {"plaintext": base64.b64encode(plain).decode()}}


@contextmanager
def running():
    """Yield a Transit that listens on loopback; its `address` is what VAULT_ADDR wants."""
    transit = Transit()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers.get("content-length", "0"))
            body = json.loads(self.rfile.read(length) or b"{}")
            status, answer = transit.handle(self.path, self.headers.get("x-vault-token"), body)
            raw = json.dumps(answer).encode()
            self.send_response(status)
            if status in range(300, 400):
                self.send_header("location", answer["location"])
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_PUT = do_POST  # noqa: N815  the name that http.server calls

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    transit.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield transit
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
