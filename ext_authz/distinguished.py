"""Distinguished names in the one spelling used everywhere here (RFC 4514).

Law: whatever RFC 4514 lets be written in several ways (escapes, types in small
letters, dotted numbers) comes out in one. Pure. Non-goal: whose name it is.
"""

from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

MAX_SUBJECT: Final = 1024
MAX_WRITTEN: Final = 4 * MAX_SUBJECT
"""What a distinguished name may be as text, escapes included; a megabyte of it takes two seconds to read."""

# OpenSSL writes these short names where RFC 4514 has only the dotted number.
_SHORT: Final = {
    NameOID.EMAIL_ADDRESS: "emailAddress",
    NameOID.SERIAL_NUMBER: "serialNumber",
    NameOID.SURNAME: "SN",
    NameOID.GIVEN_NAME: "GN",
    NameOID.TITLE: "title",
    NameOID.INITIALS: "initials",
    NameOID.PSEUDONYM: "pseudonym",
    NameOID.ORGANIZATION_IDENTIFIER: "organizationIdentifier",
}
_LONG: Final = {short: oid for oid, short in _SHORT.items()} | {"street": NameOID.STREET_ADDRESS}
_STANDARD: Final = {
    "cn": NameOID.COMMON_NAME,
    "l": NameOID.LOCALITY_NAME,
    "st": NameOID.STATE_OR_PROVINCE_NAME,
    "o": NameOID.ORGANIZATION_NAME,
    "ou": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "c": NameOID.COUNTRY_NAME,
    "dc": NameOID.DOMAIN_COMPONENT,
    "uid": NameOID.USER_ID,
}
_READ: Final = _STANDARD | {name.lower(): oid for name, oid in _LONG.items()} | _LONG


def rendered(name: x509.Name) -> str:
    """Return a certificate's name as text."""
    return name.rfc4514_string(_SHORT)


def canonical(text: str) -> str:
    """Return a written name in the one spelling; raises ValueError where it is none or too long."""
    if len(text) > MAX_WRITTEN:
        raise ValueError("the name is too long")
    try:
        return rendered(x509.Name.from_rfc4514_string(text, _READ))
    except (ValueError, TypeError):
        raise ValueError("not a distinguished name") from None
