"""The one spelling of a subject that an operator names, or why no identity can ever be called so.

Law: what never matches must not look recorded. Non-goal: whether the subject exists.
"""

from ext_authz.authn.certificate import CertificateError, canonical_dn
from ext_authz.authn.names import bare_problem, dns_name
from ext_authz.state.changes import typed_subject


def subject_named(name: str) -> str:
    """Return the typed name; a bare one means `sub:`. Raises ValueError, which says what is wrong with the name."""
    typed = typed_subject(name)
    kind, _, bare = typed.partition(":")
    if kind in ("sub", "key"):
        problem = bare_problem(bare)
        if problem is not None:
            raise ValueError(f"is nobody's name: it {problem}")
    elif kind == "dns":
        host = dns_name(bare)
        if host is None:
            raise ValueError("is not a DNS name")
        return f"dns:{host}"
    elif kind == "x509":
        try:
            return f"x509:{canonical_dn(bare)}"
        except CertificateError:
            raise ValueError("is not a distinguished name (RFC 4514)") from None
    return typed
