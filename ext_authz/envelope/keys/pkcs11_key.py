"""The `pkcs11:` provider: an AES-256 key in a token wraps with CKM_AES_GCM and never leaves it.

Law: as for every provider; the context is associated data, nonces are random (SP 800-38D 8.2.2, 8.3: 2**32 a key). The
module runs in a process of its own (pkcs11_process.py), one for each process that asks; a wrong PIN is tried once.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from ext_authz.envelope.errors import AlteredError, KeyUnavailableError
from ext_authz.envelope.keys import DATA_KEY_BYTES, Context, WrappedKey, context_bytes
from ext_authz.envelope.keys.pkcs11_process import NONCE, SECONDS, TAG_BITS, identity_of
from ext_authz.envelope.keys.pkcs11_uri import TokenKey

IDLE_SECONDS: Final = 60.0
"""How long a session may stand unused; tokens have few."""

_LABEL: Final = b"ext-authz pkcs11 1\0"
_PATIENCE: Final = SECONDS + 10.0
_MAX_VERSION: Final = 64
_GOODBYE: Final = 0.5
_MAX_ANSWER: Final = 64 * 1024
_PROGRAM: Final = str(Path(__file__).with_name("pkcs11_process.py"))
_BLOB: Final = NONCE + DATA_KEY_BYTES + TAG_BITS // 8

_wrong_pins: dict[tuple[str, str], list[int]] = {}
"""The PIN files that a token refused, as they were then: they are not tried again before they change."""


class Pkcs11Key:
    """Keys of one name in one token; the one with the highest id wraps, all of them open."""

    def __init__(
        self, place: TokenKey, environ: Mapping[str, str], entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        self.place = place
        self._environ = dict(environ)
        self._entropy = entropy
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._agent: _Agent | None = None
        self._idle: threading.Timer | None = None

    def wrap(self, data_key: bytes, context: Context) -> WrappedKey:
        """As the port says."""
        nonce = self._entropy(NONCE)
        asked = {"ask": "wrap", "data_key": data_key.hex(), "nonce": nonce.hex(), "about": self._about(context)}
        answer = self._ask(asked)
        return WrappedKey("pkcs11", self.place.name, answer["version"], bytes.fromhex(answer["blob"]))

    def unwrap(self, wrapped: WrappedKey, context: Context) -> bytes:
        """As the port says."""
        if (wrapped.provider, wrapped.key_id) != ("pkcs11", self.place.name):
            raise KeyUnavailableError(f"wrapped by `{wrapped}`, and the key given is `pkcs11:{self.place.name}`")
        if len(wrapped.blob) != _BLOB or len(wrapped.key_version) > _MAX_VERSION:
            raise AlteredError("the wrapped data key was altered")
        asked = {"ask": "unwrap", "blob": wrapped.blob.hex(), "version": wrapped.key_version}
        answer = self._ask({**asked, "about": self._about(context)})
        return bytes.fromhex(answer["data_key"])

    def close(self, agent: "_Agent | None" = None) -> None:
        """End the session and its process, if it is still `agent` where that is given; the next call begins anew."""
        with self._lock:
            if agent is None or agent is self._agent:
                self._drop()

    def _about(self, context: Context) -> tuple[str, str]:
        name = self.place.name.encode()
        return (_LABEL + len(name).to_bytes(2, "big") + name).hex(), context_bytes(context).hex()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self._pid != os.getpid():  # what a parent opened is its own: neither its lock nor its pipes are ours
            self._pid, self._lock, self._idle = os.getpid(), threading.Lock(), None
            _inherited.append(self._agent)
            self._agent = None
        with self._lock:
            self._refuse_wrong_pin()
            fresh = self._agent is None
            answer = self._once(request)
            if answer.get("error") == "token" and not fresh:  # it was away, or is another one by now
                answer = self._once(request)
        if "error" not in answer:
            return answer
        text = str(answer["text"])
        if answer["error"] == "altered":
            raise AlteredError(f"{text}, or belongs to another data id or type")
        if answer["error"] == "pin":
            _wrong_pins[self._login] = answer["file"]
        raise KeyUnavailableError(f"`pkcs11:{self.place.name}`: {text}")

    def _once(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self._idle is not None:
            self._idle.cancel()
        try:
            if self._agent is None:
                self._agent = _Agent(self.place, self._environ)
            answer = self._agent.ask(request)
        except (OSError, ValueError) as error:
            answer = {"error": "token", "text": str(error)}
        if "error" in answer and answer["error"] != "altered":
            self._drop()
        else:
            self._idle = threading.Timer(IDLE_SECONDS, _close_idle, [weakref.ref(self), weakref.ref(self._agent)])
            self._idle.daemon = True
            self._idle.start()
        return answer

    @property
    def _login(self) -> tuple[str, str]:
        return f"{self.place.module} {self.place.token} {self.place.serial}", self.place.pin

    def _refuse_wrong_pin(self) -> None:
        refused = _wrong_pins.get(self._login)
        if refused is not None:
            with contextlib.suppress(OSError):
                if identity_of(Path(self.place.pin).stat()) == refused:
                    text = f"the PIN in `{self.place.pin}` is wrong, and is not tried again before the file changes"
                    raise KeyUnavailableError(f"`pkcs11:{self.place.name}`: {text}")

    def _drop(self) -> None:
        agent, self._agent = self._agent, None
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if agent is not None:
            agent.end()


_inherited: list[object] = []
"""Of a forked parent; kept, for the end of these objects would end what is not ours."""


def _close_idle(key: "weakref.ref[Pkcs11Key]", agent: "weakref.ref[_Agent]") -> None:
    found = key()
    if found is not None:
        found.close(agent())


class _Agent:
    """The process that holds the session; ended with this object."""

    def __init__(self, place: TokenKey, environ: Mapping[str, str]) -> None:
        # A session of its own: Ctrl-C is for us to answer. -P: nothing is imported from where somebody stands.
        self._process = subprocess.Popen(  # noqa: S603  our own interpreter and script
            [sys.executable, "-P", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environ,
            start_new_session=True,
            bufsize=0,
        )
        self.end = weakref.finalize(self, _end, self._process, os.getpid())
        self._send(asdict(place))

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request. Raises OSError, ValueError: the process ended, or does not answer."""
        self._send(request)
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101  it is a pipe
        waiting = select.poll()
        waiting.register(stdout, select.POLLIN)
        got, deadline = b"", time.monotonic() + _PATIENCE
        while not got.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not waiting.poll(left * 1000):
                raise TimeoutError(f"no answer from its module within {_PATIENCE:.0f} s")
            part = os.read(stdout.fileno(), _MAX_ANSWER)
            if not part or len(got) > _MAX_ANSWER:
                raise OSError("the process with its module ended, or its module hangs")
            got += part
        made: dict[str, Any] = json.loads(got)
        return made

    def _send(self, plain: Mapping[str, Any]) -> None:
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101  it is a pipe
        try:
            stdin.write(json.dumps(plain).encode() + b"\n")
        except BrokenPipeError:
            raise OSError("the process with its module ended") from None


def _end(process: "subprocess.Popen[bytes]", owner: int) -> None:
    if os.getpid() != owner:
        return
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_GOODBYE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
