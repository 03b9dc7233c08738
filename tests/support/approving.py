"""What tests of `approve` ask for, the approver's token, and what was recorded."""

import time

import credentials as made

from ext_authz.state.book import read_book
from ext_authz.state.sqlite import FILE_NAME, SqliteStore

POLICY = "production_model_deployment"
CONFIG = """\
identity:
  jwt:
    - issuer: https://idp.example
      audiences: [ml-platform]
      jwks_file: jwks.json
      claims: {roles: roles, groups: groups}
policies: {files: [policies.yaml]}
"""
ASK = ["approve", POLICY, "--group", "security_team", "--for", "alice", "--ttl", "2h", "--reason", "CHG-7"]


def token(config, **claims):
    now = int(time.time())
    about = {"iat": now - 5, "exp": now + 600, "sub": "carol", "amr": ["mfa"], "groups": ["security_team"], **claims}
    path = config.parent / "token.jwt"
    path.write_text(made.token(made.claims(**about), kid="1") + "\n")
    return path


def approvals(config, subject="sub:alice"):
    path = config.parent / "run" / FILE_NAME
    if not path.exists():
        return ()
    store = SqliteStore(path)
    try:
        now_ns = time.time_ns()
        return read_book(store).state(now_ns, None).approvals_for(subject, now_ns)
    finally:
        store.close()
