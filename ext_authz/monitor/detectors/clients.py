"""One credential in several places at once: a copy of it is out.

Law: moving once is no crime; places must alternate, and be none that the subject was known at for a day.
Non-goal: distances on the globe. Addresses have no reliable place; networks are what a log can prove.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ext_authz.monitor.detectors.baseline import state_of, texts, whole
from ext_authz.monitor.detectors.finding import MAX_EVIDENCE, Finding, Severity, SnapshotError
from ext_authz.monitor.detectors.fold import ALLOWED, NONE, REFUSED, Fold, Found, kept
from ext_authz.monitor.detectors.recent import Recent
from ext_authz.monitor.detectors.seen import DAY, Seen, network, part, text
from ext_authz.monitor.detectors.table import Table

_MOST_HOMES: Final = 32


@dataclass(frozen=True, slots=True)
class ClientParams:
    """Parameters of `impossible_client_change` (docs/monitoring.md)."""

    window: int = 600
    """Seconds that are called at once."""
    networks: int = 3
    """Distinct networks not known of the subject for a day, …"""
    certificates: int = 2
    """… or distinct client certificates beneath one token or key, …"""
    switches: int = 4
    """… with this many changes to and fro within the window."""
    ipv4_prefix: int = 16
    """Length of what counts as one network: providers give a client addresses of several /24 in turn."""
    ipv6_prefix: int = 32
    quiet: int = 3600
    """Seconds before the same credential is reported again."""
    max_credentials: int = 20_000
    max_subjects: int = 20_000


class _Places:
    """Where one credential was used within the window."""

    __slots__ = ("alarmed", "certificate", "certificates", "evidence", "network", "networks", "switched")

    def __init__(self) -> None:
        self.alarmed = 0
        self.network = ""
        self.certificate = ""
        self.networks = Recent()
        self.certificates = Recent()
        self.switched: list[int] = []
        self.evidence: list[str] = []

    def pack(self) -> list[Any]:
        rest = [self.networks.pack(), self.certificates.pack(), self.switched, self.evidence]
        return [self.alarmed, self.network, self.certificate, *rest]

    @classmethod
    def unpack(cls, packed: Any) -> "_Places":  # noqa: ANN401
        alarmed, net, certificate, networks, certificates, switched, evidence = packed
        made = cls()
        made.alarmed, made.network, made.certificate = whole(alarmed), str(net), str(certificate)
        made.networks, made.certificates = Recent.unpack(networks), Recent.unpack(certificates)
        made.switched = [whole(each) for each in switched[-16:]]
        made.evidence = texts(evidence, MAX_EVIDENCE)
        return made


class ImpossibleClientChange(Fold):
    """One token, key or certificate used from many networks, or with many certificates, to and fro."""

    name = "impossible_client_change"
    kinds = frozenset({ALLOWED, REFUSED})

    def __init__(self, params: ClientParams | None = None) -> None:
        self.params = params or ClientParams()
        self._credentials: Table[_Places] = Table(self.params.max_credentials)
        self._homes: Table[dict[str, int]] = Table(self.params.max_subjects)

    def see(self, one: Seen) -> Found:
        """Take one event in; only verified credentials count."""
        if not one.subject:
            return NONE
        params, now = self.params, one.second
        net = network(one.ip, params.ipv4_prefix, params.ipv6_prefix)
        subject = part(one, "subject")
        alone = subject.get("auth") == "mtls"
        certificate = text(subject.get("cert_fingerprint"))
        credential = _credential(one, subject, certificate if alone else "")
        homes = self._homes.get(one.subject)
        if homes is None:
            homes = {}
            self._homes.put(one.subject, homes)
        known = self._credentials.get(credential)
        if known is None:
            known = _Places()
            self._credentials.put(credential, known)
        first = homes.get(net)
        if net and first is None:
            if len(homes) >= _MOST_HOMES:
                del homes[max(homes, key=homes.__getitem__)]
            homes[net] = now
        elif first is not None and now - first > DAY:
            self._homes.settle(one.subject)
            net = ""
        if (not net or net == known.network) and (alone or certificate == known.certificate):
            return NONE
        return self._changed(one, known, credential, net, "" if alone else certificate)

    def _changed(self, one: Seen, known: _Places, credential: str, net: str, certificate: str) -> Found:
        params, now = self.params, one.second
        begin = now - params.window
        if known.network or known.certificate:
            known.switched = [*[at for at in known.switched if at >= begin], now][-16:]
        if net:
            known.networks.add(net, now)
            known.network = net
        if certificate:
            known.certificates.add(certificate, now)
            known.certificate = certificate
        kept(known.evidence, one.event_id)
        if len(known.switched) < params.switches or (known.alarmed and now - known.alarmed < params.quiet):
            return NONE
        networks, certificates = known.networks.since(begin), known.certificates.since(begin)
        if networks < params.networks and certificates < params.certificates:
            return NONE
        known.alarmed = now
        self._credentials.settle(credential)
        said = (
            f"one credential from {networks} networks the subject was not known at, with {certificates} client"
            f" certificates, {len(known.switched)} changes within {params.window // 60} minutes"
        )
        return (Finding(self.name, one.subject, one.ip or None, Severity.HIGH, said, tuple(known.evidence), one.at_ns),)

    def snapshot(self) -> dict[str, Any]:
        """See Fold.snapshot."""
        return {"credentials": self._credentials.pack(_Places.pack), "homes": self._homes.pack(dict)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See Fold.restore."""
        made = ImpossibleClientChange(self.params)
        try:
            made._credentials.unpack(state_of(state, "credentials"), _Places.unpack)
            made._homes.unpack(state_of(state, "homes"), _homes)
        except (TypeError, ValueError) as error:
            raise SnapshotError("not a state of `impossible_client_change`") from error
        self._credentials, self._homes = made._credentials, made._homes


def _homes(packed: Any) -> dict[str, int]:  # noqa: ANN401  plain data from outside
    return {str(net): whole(first) for net, first in list(dict(packed).items())[:_MOST_HOMES]}


def _credential(one: Seen, subject: Mapping[str, Any], certificate: str) -> str:
    """Name the very credential; a token without an id is one with all of its subject's."""
    value = text(subject.get("token_id"))
    if value:
        return f"token_id\n{text(subject.get('issuer'))}\n{value}"
    value = text(subject.get("key_id"))
    if value:
        return f"key_id\n{text(subject.get('issuer'))}\n{value}"
    return f"certificate\n{certificate}" if certificate else f"subject\n{one.subject}"
