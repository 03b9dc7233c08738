"""The `monitor:` section becomes the detectors' parameters, and its defaults are theirs."""

import pytest
from pydantic import ValidationError

from ext_authz.monitor.alerts import AlertParams
from ext_authz.monitor.detectors import NAMES, Params
from ext_authz.monitor.risk import RiskParams
from ext_authz.monitor.settings import MonitorSettings


def test_defaults_are_the_detectors_own():
    assert MonitorSettings().params() == Params()
    assert tuple(name for name in MonitorSettings.model_fields if name in NAMES) == NAMES
    assert MonitorSettings().risk_params() == RiskParams()
    assert MonitorSettings().alert_params() == AlertParams()


def test_what_is_written_is_what_runs():
    made = MonitorSettings.model_validate(
        {
            "unusual_time": {"surprise": "3.5", "max_subjects": "5000"},
            "unusual_volume": {"floor": "50", "factor": "4"},
            "credential_stuffing": {"names": "7", "window": "5m", "spread": "99"},
            "model_extraction": {"hour_floor": "77", "factor": "2.5", "together": "9"},
            "new_pair": {"values": ["Top"]},
            "dormant_identity": {"enabled": "false"},
        }
    ).params()
    assert (made.unusual_time.surprise, made.unusual_time.max_subjects) == (3.5, 5000)
    assert (made.unusual_volume.limits.floor, made.unusual_volume.limits.factor) == (50, 4.0)
    stuffing, extraction = made.credential_stuffing, made.model_extraction
    assert (stuffing.names, stuffing.window, stuffing.spread.floor) == (7, 300, 99)
    assert (extraction.hour.floor, extraction.hour.factor, extraction.day.factor) == (77, 2.5, 2.5)
    assert extraction.together.floor == 9
    assert made.new_pair.values == {"top"}
    assert made.dormant_identity is None
    assert made.enumeration == Params().enumeration


@pytest.mark.parametrize(
    "section",
    [
        {"unusual_time": {"surprise": "much"}},
        {"unusual_time": {"surprise": "0"}},
        {"unusual_volume": {"factor": "1"}},
        {"unusual_volume": {"floor": "0"}},
        {"credential_stuffing": {"names": "65"}},
        {"credential_stuffing": {"window": "5"}},
        {"model_extraction": {"max_pairs": "1"}},
        {"new_pair": {"values": []}},
        {"unknown": {}},
    ],
)
def test_a_number_that_would_never_or_always_alarm_is_refused(section):
    with pytest.raises(ValidationError):
        MonitorSettings.model_validate(section)
