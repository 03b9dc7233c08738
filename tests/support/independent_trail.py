"""The trail's files a second time, from docs/trail-format.md alone: nothing of `ext_authz` is imported here."""

import base64
import hashlib
import hmac
import json
import zlib
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from independent_envelope import hkdf


def gcm_open(key: bytes, nonce: bytes, sealed: bytes, about: bytes) -> bytes:
    """AES-GCM by the cipher and its mode; a key of 32 bytes makes it AES-256."""
    assert len(key) == 32
    opened = Cipher(AES(key), GCM(nonce, sealed[-16:])).decryptor()
    opened.authenticate_additional_data(about)
    return opened.update(sealed[:-16]) + opened.finalize()


def unwrap(wrapped: dict, keyring: dict, log_id: str, number: int) -> bytes:
    assert (wrapped["schema"], wrapped["provider"]) == ("ext_authz.segment_key/1", "file")
    assert wrapped["key_id"] == keyring["id"]
    version = int(wrapped["key_version"])
    (key,) = [base64.b64decode(each["key"]) for each in keyring["keys"] if each["version"] == version]
    about = b"ext-authz keyring 1\0" + bytes.fromhex(keyring["id"]) + version.to_bytes(4, "big")
    for text in ("app", "ext-authz", "log_id", log_id, "segment", str(number)):
        about += len(text.encode()).to_bytes(4, "big") + text.encode()
    blob = base64.b64decode(wrapped["wrapped"])
    return gcm_open(key, blob[:12], blob[12:], about)


def merkle_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 2.1, as it is written there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + merkle_root(leaves[:split]) + merkle_root(leaves[split:])).digest()


def read_segment(path: Path, keyring_text: str) -> tuple[dict, list[tuple[int, int, bytes]]]:
    """Return the header and the frames as (kind, events before, payload), or raise something."""
    data = path.read_bytes()
    log_id, number, _ = path.name.rsplit(".", 2)
    wrapped = json.loads(path.with_suffix(".key").read_text())
    data_key = unwrap(wrapped, json.loads(keyring_text), log_id, int(number))
    assert data[:12] == b"EXTAZSEG\0\1\0\1"
    keys = hkdf(data_key, data[32:64], b"ext-authz segment 1", 96)
    assert keys[32:64] == data[64:96], "commitment"
    assert hmac.digest(keys[64:], data[:256], "sha256") == data[256:288], "header"
    header = {
        "number": int.from_bytes(data[12:16], "big"),
        "first_seq": int.from_bytes(data[16:24], "big"),
        "root": data[96:128],
        "log_id": data[128:256].rstrip(b"\0").decode(),
    }
    assert header["log_id"] == log_id
    digest = hashlib.sha256(data[:288]).digest()
    frames, at = [], 288
    while at + 16 <= len(data):
        head, length = data[at : at + 12], int.from_bytes(data[at + 1 : at + 4], "big")
        assert zlib.crc32(head, at % 2**32) == int.from_bytes(data[at + 12 : at + 16], "big"), "head"
        end = at + 16 + length + 16
        if end > len(data):
            break
        about = digest + at.to_bytes(8, "big") + head
        payload = gcm_open(keys[:32], bytes(8) + head[4:8], data[at + 16 : end], about)
        frames.append((head[0], int.from_bytes(head[8:12], "big"), payload))
        at = end
    return header, frames
