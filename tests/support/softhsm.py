"""A SoftHSM token in a folder: keys, a PIN file, and a way to take the token away and put it back."""

import json
import os
import shutil
import subprocess
import sys
from urllib.parse import quote

import debian

from ext_authz.envelope.keys import open_key, parse_reference

PIN = "p.1n-4711"
MAKE = """\
import json, sys, pkcs11
module, label, pin, name, id_, bits, more = json.loads(sys.argv[1])
template = {getattr(pkcs11.Attribute, key): value for key, value in more.items()}
with pkcs11.lib(module).get_token(token_label=label).open(rw=True, user_pin=pin) as session:
    session.generate_key(pkcs11.KeyType.AES, bits, label=name, id=bytes.fromhex(id_), store=True, template=template)
"""
FLAGS = """\
import sys, pkcs11
print(int(pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2]).flags))
"""
KNOWN: dict[tuple, dict[str, bytes]] = {}
"""What a token's folder holds after what was done to it; making keys takes a process each."""


class Token:
    """One token; `environment` is what a process needs to see it. Skips the test where SoftHSM cannot be had."""

    def __init__(self, folder, label="audit token", like=None):
        program = debian.needed("softhsm2-util")
        self.label, self.folder = label, folder / "tokens" if like is None else like.folder
        self.module = str(program.root / "usr/lib/softhsm/libsofthsm2.so")
        self.folder.mkdir(exist_ok=True)
        settings = folder / "softhsm2.conf"
        settings.write_text(f"directories.tokendir={self.folder}\nobjectstore.backend=file\nlog.level=ERROR\n")
        self.environment = {**program.environment, "SOFTHSM2_CONF": str(settings)}
        self.pin = folder / "pin"
        self.write_pin(PIN)
        self.done = (label,) if like is None else ("", os.urandom(8))
        command = [program.path, "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "so-pin-1"]
        self.once(lambda: self.run(*command, "--module", self.module))

    def once(self, work):
        """Do what changes the token, or put the folder as it was when another test had done the same."""
        if self.done in KNOWN:
            for path, content in KNOWN[self.done].items():
                (self.folder / path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                (self.folder / path).write_bytes(content)
            return
        work()
        found = [path for path in self.folder.rglob("*") if path.is_file()]
        KNOWN[self.done] = {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    def run(self, *command):
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def write_pin(self, text, mode=0o600):
        draft = self.pin.with_name("pin.draft")
        draft.write_text(text + "\n")
        draft.chmod(mode)
        draft.replace(self.pin)

    def key(self, name, id_="01", bits=256, **more):
        template = {"SENSITIVE": True, "EXTRACTABLE": False, **more}
        plain = json.dumps([self.module, self.label, PIN, name, id_, bits, template])
        self.done = (*self.done, f"{name} {id_} {bits} {sorted(template.items())}")
        self.once(lambda: self.run(sys.executable, "-c", MAKE, plain))

    def uri(self, name, more="", pin=None):
        path = f"token={quote(self.label)};object={quote(name)}{more}"
        return f"pkcs11:{path}?module-path={self.module}&pin-source=file:{pin or self.pin}"

    @property
    def flags(self):
        return int(self.run(sys.executable, "-c", FLAGS, self.module, self.label))

    def away(self):
        shutil.move(self.folder, self.folder.with_name("away"))

    def back(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.move(self.folder.with_name("away"), self.folder)

    def open(self, name):
        """Return what opens the key, for whoever reads a trail in this process."""
        return lambda: open_key(parse_reference(self.uri(name)), self.environment)

    def seen(self, monkeypatch):
        """Let processes that a test starts see the token."""
        for variable in ("SOFTHSM2_CONF", "LD_LIBRARY_PATH"):
            if variable in self.environment:
                monkeypatch.setenv(variable, self.environment[variable])
