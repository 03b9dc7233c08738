"""What a user may say about the detectors: the `monitor:` section.

Law: defaults are those of the detectors' own parameters, so there is one place for a number.
Non-goal: what follows from findings, sinks of alerts, quarantine.
"""

import dataclasses
import re
from typing import Annotated, Any, Final, Literal, TypeVar, cast

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator

from ext_authz.audit.sinks.settings_base import one_of
from ext_authz.audit.sinks.settings_webhooks import Webhook
from ext_authz.monitor.alerts import AlertParams
from ext_authz.monitor.detectors import NAMES, Params
from ext_authz.monitor.detectors.baseline import Limits
from ext_authz.monitor.detectors.clients import ClientParams
from ext_authz.monitor.detectors.credentials import CredentialParams
from ext_authz.monitor.detectors.denials import EnumerationParams, ProbingParams
from ext_authz.monitor.detectors.extraction import ExtractionParams
from ext_authz.monitor.detectors.subjects import DormantParams, PairParams
from ext_authz.monitor.detectors.times import TimeParams
from ext_authz.monitor.detectors.volume import VolumeParams
from ext_authz.monitor.risk import Response, RiskParams
from ext_authz.settings import Count, Flag, NonEmptyText, Seconds, Settings, mistake, parse_text, shown
from ext_authz.state.changes import typed_subject

P = TypeVar("P")

_NUMBER: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?\Z")
_TIME, _VOLUME, _STUFFING, _EXTRACTION = TimeParams(), VolumeParams(), CredentialParams(), ExtractionParams()
_PAIR, _ENUMERATION, _PROBING, _CLIENT = PairParams(), EnumerationParams(), ProbingParams(), ClientParams()
_DORMANT: Final = DormantParams()
_RISK, _ALERT = RiskParams(), AlertParams()


def parse_number(value: object) -> float:
    """Return the decimal number ≥ 0 written as `3` or `2.5`; raises a mistake otherwise."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 10**9:
        return float(value)
    if isinstance(value, str) and _NUMBER.match(value):
        return float(value)
    raise mistake(f"{shown(value)} is not a number such as `3` or `2.5`")


Number = Annotated[float, BeforeValidator(parse_number), WithJsonSchema({"type": "number", "minimum": 0})]
Some = Annotated[Count, Field(ge=1)]
Told = Annotated[Count, Field(ge=2, le=60)]
"""Distinct things that are told apart one by one."""
Ratio = Annotated[Number, Field(ge=1.05, le=10_000)]
Window = Annotated[Seconds, Field(ge=60, le=86_400)]
Table = Annotated[Count, Field(ge=1000, le=10_000_000)]


def _response(value: object) -> str:
    return one_of(value, tuple(Response), "`alert`, `risk` or `quarantine`")


def _subject(value: object) -> str:
    text = parse_text(value)
    if "*" in text[:-1]:
        raise mistake(f"{shown(text)} has a `*` that is not its end")
    if text == "*":
        raise mistake("`*` is everybody: set no detector's `response` to `quarantine` instead")
    return typed_subject(text)


class QuarantineSettings(Settings):
    """How long a quarantine by the monitor lasts, and how many there are at most."""

    first: Annotated[Seconds, Field(ge=60, le=86_400)] = _RISK.first
    """The first one of a subject; each further one lasts twice as long …"""
    longest: Annotated[Seconds, Field(ge=60, le=86_400)] = _RISK.longest
    """… up to this."""
    percent: Annotated[Number, Field(ge=0, le=10)] = _RISK.percent
    """How many of a day's subjects may be in quarantine at once; one in any case. Beyond there is only an alert."""


class AlertSettings(Settings):
    """How often what goes on is told."""

    repeat: Annotated[Seconds, Field(ge=60, le=86_400)] = _ALERT.repeat
    """An alert that goes on is told again this often."""
    resolve_after: Annotated[Seconds, Field(ge=60, le=7 * 86_400)] = _ALERT.resolve
    """It is resolved this long after the last finding."""
    per_hour: Annotated[Count, Field(ge=1, le=10_000)] = _ALERT.per_hour
    """Alerts of one detector and severity in an hour; of more there is one summary."""
    webhooks: tuple[Webhook, ...] = ()
    """Where alerts are delivered to beside the audit sinks."""

    @field_validator("webhooks")
    @classmethod
    def _distinct(cls, webhooks: tuple[Webhook, ...]) -> tuple[Webhook, ...]:
        names: set[str] = set()
        for each in webhooks:
            if each.label in names:
                raise mistake(f"two webhooks are called `{each.label}`: give one a `name`, its cursor goes by it")
            names.add(each.label)
        return webhooks


class DetectorSettings(Settings):
    """What every detector has."""

    enabled: Flag = True
    """Whether it runs."""
    response: Annotated[Literal["alert", "risk", "quarantine"], BeforeValidator(_response)] = "risk"
    """What follows beside an alert: nothing, a risk of the subject, or a quarantine too."""


class UnusualTimeSettings(DetectorSettings):
    """A subject at an hour of the week at which it never is."""

    surprise: Annotated[Number, Field(ge=0.5, le=20)] = _TIME.surprise
    """How improbable the visit must be: minus the logarithm of that, the hour and what follows taken together."""
    crowd: Annotated[Number, Field(le=10)] = _TIME.crowd
    """How much it adds that so many requests in an hour are rare for the subject; 0: not at all."""
    carried: Annotated[Number, Field(le=1)] = _TIME.carried
    """How much the hour directly before adds; 0: each hour is judged alone."""
    habit: Annotated[Number, Field(le=10)] = _TIME.habit
    """This share of the surprise of one of twenty of the subject's own days is added."""
    requests: Some = _TIME.requests
    """Requests within the hour before it counts as a visit."""
    warm_days: Some = _TIME.warm_days
    """Days since a subject was first seen before it is judged."""
    warm_active_days: Some = _TIME.warm_active_days
    """Of these, active ones."""
    warm_hours: Some = _TIME.warm_hours
    """Active hours before it is judged."""
    half_life_weeks: Annotated[Number, Field(ge=1, le=520)] = _TIME.half_life_weeks
    """After this time an active hour counts half."""
    max_subjects: Table = _TIME.max_subjects
    """Subjects that are remembered, about 1.5 KB each."""


class UnusualVolumeSettings(DetectorSettings):
    """More requests for a type of resource in an hour than a subject ever made."""

    floor: Some = _VOLUME.limits.floor
    """Requests an hour below which nothing is unusual."""
    factor: Ratio = _VOLUME.limits.factor
    """How many times the subject's own busiest hour of its last 28 active days."""
    warm_days: Some = _VOLUME.limits.warm_days
    """Active days before a subject's own past counts; before, its peers' does."""
    peer_factor: Ratio = _VOLUME.peer_factor
    """How many times what 99 % of its peers' days stay under, for a subject without a past."""
    max_subjects: Table = _VOLUME.max_subjects
    """Pairs of subject and resource type that are remembered, about 1 KB each."""


class CredentialStuffingSettings(DetectorSettings):
    """Many credentials that do not hold."""

    window: Window = _STUFFING.window
    """The short window."""
    failures: Told = _STUFFING.failures
    """Failures of one source within the window …"""
    names: Told = _STUFFING.names
    """… on this many distinct names."""
    slow_names: Told = _STUFFING.slow_names
    """Distinct names that one source failed on within 24 hours."""
    own_names: Told = _STUFFING.own_names
    """Distinct names that failed where they are at home: an outage, or an attacker beside them."""
    unnamed: Told = _STUFFING.unnamed
    """Failures of one source within the window that name nobody."""
    sources: Told = _STUFFING.sources
    """Distinct sources that failed on one name within 24 hours."""
    spread: Some = _STUFFING.spread.floor
    """Distinct names that failed anywhere within an hour; more where more is usual."""
    spread_day: Some = _STUFFING.spread_day.floor
    """Distinct names that failed anywhere within a day; more where more is usual."""
    max_sources: Table = _STUFFING.max_sources
    """Sources that are remembered, up to 10 KB each."""


class ModelExtractionSettings(DetectorSettings):
    """Distinct inputs to a model beyond what is usual."""

    moment_floor: Some = _EXTRACTION.moment.floor
    """Distinct inputs of a subject to a model in ten minutes below which nothing is unusual."""
    hour_floor: Some = _EXTRACTION.hour.floor
    """The same in an hour."""
    day_floor: Some = _EXTRACTION.day.floor
    """The same in a day."""
    factor: Ratio = _EXTRACTION.day.factor
    """How many times the subject's own most of its last 28 active days."""
    new_inputs: Some = _EXTRACTION.new_inputs
    """Distinct inputs in a day by a subject without a past."""
    together: Some = _EXTRACTION.together.floor
    """Distinct inputs in a day by all subjects beyond what is usual for each of them."""
    together_subjects: Told = _EXTRACTION.together_subjects
    """How many subjects that takes."""
    max_pairs: Table = _EXTRACTION.max_pairs
    """Pairs of subject and model that are remembered, about 2 KB each."""


class NewPairSettings(DetectorSettings):
    """The first use of a sensitive resource, or the first change of a kind, by a subject known for long."""

    attribute: NonEmptyText = _PAIR.attribute
    """The resource attribute that says how sensitive it is."""
    values: Annotated[tuple[NonEmptyText, ...], Field(min_length=1)] = tuple(sorted(_PAIR.values))
    """Its values that count."""
    warm_days: Some = _PAIR.warm_days
    """Days since the subject was first seen."""


class EnumerationSettings(DetectorSettings):
    """Many distinct resources refused to one caller."""

    window: Window = _ENUMERATION.window
    """The short window."""
    resources: Told = _ENUMERATION.resources
    """Distinct resources denied to a subject within the window."""
    slow_resources: Told = _ENUMERATION.slow_resources
    """The same within 24 hours."""
    paths: Told = _ENUMERATION.paths
    """Distinct paths refused to a source without an identity within the window."""


class PrivilegeProbingSettings(DetectorSettings):
    """Denied actions, each mightier than the one before."""

    window: Window = _PROBING.window
    """The time within which they are denied."""
    steps: Annotated[Count, Field(ge=2, le=6)] = _PROBING.steps
    """How many."""


class ClientChangeSettings(DetectorSettings):
    """One credential in many places at once."""

    window: Window = _CLIENT.window
    """What is called at once."""
    networks: Told = _CLIENT.networks
    """Distinct networks (/16, /32 in IPv6) that the subject was not known at for a day."""
    certificates: Told = _CLIENT.certificates
    """Distinct client certificates beneath one token or key."""
    switches: Annotated[Count, Field(ge=2, le=16)] = _CLIENT.switches
    """Changes to and fro within the window."""


class DormantIdentitySettings(DetectorSettings):
    """A subject that comes back after a long silence."""

    silent_days: Some = _DORMANT.silent_days
    """Days of silence, more where the subject was silent for long before."""


class MonitorSettings(Settings):
    """The `monitor:` section."""

    enabled: Flag = True
    """Whether this sidecar watches its own trail. `false` where `ext-authz monitor` watches for all."""
    never_quarantine: tuple[Annotated[str, BeforeValidator(_subject)], ...] = ()
    """Subjects that the monitor never quarantines; a `*` at the end stands for any rest."""
    risk_half_life: Annotated[Seconds, Field(ge=60, le=30 * 86_400)] = _RISK.half_life
    """After this time a finding weighs half: a lone one keeps its severity as risk for so long."""
    risk_changes: Annotated[Count, Field(ge=100, le=10_000_000)] = 20_000
    """Risks that all monitors together record in a day (UTC), 330 bytes each; the last quarter is for high ones."""
    quarantine: QuarantineSettings = QuarantineSettings()
    """How long the monitor's quarantines last, and how many there are."""
    alerts: AlertSettings = AlertSettings()
    """How often what goes on is told, and to whom."""
    unusual_time: UnusualTimeSettings = UnusualTimeSettings()
    """A subject at an hour of the week at which it never is."""
    unusual_volume: UnusualVolumeSettings = UnusualVolumeSettings()
    """More requests for a type of resource in an hour than a subject ever made."""
    credential_stuffing: CredentialStuffingSettings = CredentialStuffingSettings()
    """Many credentials that do not hold."""
    model_extraction: ModelExtractionSettings = ModelExtractionSettings()
    """Distinct inputs to a model beyond what is usual."""
    new_pair: NewPairSettings = NewPairSettings()
    """The first use of a sensitive resource, or the first change of a kind, by a subject known for long."""
    enumeration: EnumerationSettings = EnumerationSettings()
    """Many distinct resources refused to one caller."""
    privilege_probing: PrivilegeProbingSettings = PrivilegeProbingSettings()
    """Denied actions, each mightier than the one before."""
    impossible_client_change: ClientChangeSettings = ClientChangeSettings()
    """One credential in many places at once."""
    dormant_identity: DormantIdentitySettings = DormantIdentitySettings()
    """A subject that comes back after a long silence."""

    def responses(self) -> dict[str, Response]:
        """Return what follows from each detector's findings."""
        return {name: Response(getattr(self, name).response) for name in NAMES}

    def risk_params(self) -> RiskParams:
        """Return the parameters of risk and quarantine."""
        how = self.quarantine
        return RiskParams(self.risk_half_life, how.first, how.longest, percent=how.percent)

    def alert_params(self) -> AlertParams:
        """Return the parameters of alerts."""
        how = self.alerts
        return AlertParams(how.repeat, how.resolve_after, how.per_hour)

    def params(self) -> Params:
        """Return the parameters of the detectors; those that are off are None."""
        volume, stuffing, extraction = self.unusual_volume, self.credential_stuffing, self.model_extraction
        limits = dataclasses.replace(
            _VOLUME.limits, floor=volume.floor, factor=volume.factor, warm_days=volume.warm_days
        )
        spreads = {
            "spread": dataclasses.replace(_STUFFING.spread, floor=stuffing.spread),
            "spread_day": dataclasses.replace(_STUFFING.spread_day, floor=stuffing.spread_day),
        }
        windows: dict[str, Limits] = {
            "moment": dataclasses.replace(_EXTRACTION.moment, floor=extraction.moment_floor, factor=extraction.factor),
            "hour": dataclasses.replace(_EXTRACTION.hour, floor=extraction.hour_floor, factor=extraction.factor),
            "day": dataclasses.replace(_EXTRACTION.day, floor=extraction.day_floor, factor=extraction.factor),
            "together": dataclasses.replace(_EXTRACTION.together, floor=extraction.together),
        }
        values = frozenset(value.lower() for value in self.new_pair.values)
        return Params(
            unusual_time=_made(_TIME, self.unusual_time),
            unusual_volume=_made(_VOLUME, volume, limits=limits),
            credential_stuffing=_made(_STUFFING, stuffing, **spreads),
            model_extraction=_made(_EXTRACTION, extraction, **windows),
            new_pair=_made(_PAIR, self.new_pair, values=values),
            enumeration=_made(_ENUMERATION, self.enumeration),
            privilege_probing=_made(_PROBING, self.privilege_probing),
            impossible_client_change=_made(_CLIENT, self.impossible_client_change),
            dormant_identity=_made(_DORMANT, self.dormant_identity),
        )


def _made(default: P, settings: DetectorSettings, **others: Any) -> P | None:  # noqa: ANN401
    """Return the parameters with what the settings name alike, None where the detector is off."""
    if not settings.enabled:
        return None
    known = {each.name for each in dataclasses.fields(cast("Any", default))}
    alike = {name: getattr(settings, name) for name in type(settings).model_fields if name in known}
    return cast("P", dataclasses.replace(cast("Any", default), **{**alike, **others}))
