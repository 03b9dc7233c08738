"""The seed article's policy file, word for word."""

from pathlib import Path

import pytest
from policy_support import ask, compiled, ns, subject

from ext_authz.policy.conditions import Approved, AuditLogged, IpRange, MfaRequired, TimeWindow
from ext_authz.policy.matching import Trait
from ext_authz.policy.schema import load_policies
from ext_authz.policy.windows import BUSINESS_HOURS

SEED = Path(__file__).parents[3] / "policies" / "seed.yaml"
# The article's block, without its fence.
ARTICLE = """\
# policy.yaml
policies:
  - id: data_scientist_training
    subjects:
      - role: data_scientist
    resources:
      - type: dataset
        sensitivity: low
      - type: training_cluster
        environment: dev
    actions:
      - read_data
      - submit_training_job
      - read_metrics
    conditions:
      - ip_range: 10.0.0.0/8
      - time_window: business_hours

  - id: production_model_deployment
    subjects:
      - role: mlops_engineer
      - approval: security_team
    resources:
      - type: model
        stage: production
      - type: deployment_platform
        environment: prod
    actions:
      - deploy_model
      - monitor_performance
    conditions:
      - mfa_required: true
      - audit_logged: true
"""


@pytest.fixture(scope="module")
def seed():
    return compiled(ARTICLE)


def test_the_file_is_the_articles_word_for_word():
    assert SEED.read_text() == ARTICLE


def test_it_loads_as_it_stands():
    first, second = load_policies({"seed.yaml": ARTICLE}).policies
    assert first.subjects == ((Trait("role", ("data_scientist",)),),)
    assert first.resources == (
        (Trait("type", ("dataset",)), Trait("sensitivity", ("low",))),
        (Trait("type", ("training_cluster",)), Trait("environment", ("dev",))),
    )
    assert first.conditions == (IpRange(("10.0.0.0/8",)), TimeWindow(BUSINESS_HOURS, "business_hours"))
    assert second.subjects == ((Trait("role", ("mlops_engineer",)),),)
    assert second.conditions == (Approved("security_team"), MfaRequired(), AuditLogged())


def test_business_hours_are_monday_to_friday_nine_to_five_utc(seed):
    low = {"sensitivity": "low"}
    scientist = subject(roles=["data_scientist"])

    def reason(at):
        return seed.decide(ask(scientist, "dataset", "clicks", "read_data", attributes=low, at=at)).reason

    assert reason("2026-11-23T09:00:00+00:00") == "allowed"
    assert reason("2026-11-23T08:59:59+00:00") == "conditions_not_met"
    assert reason("2026-11-27T16:59:59+00:00") == "allowed"
    assert reason("2026-11-27T17:00:00+00:00") == "conditions_not_met"
    assert reason("2026-11-28T12:00:00+00:00") == "conditions_not_met"


def test_the_answer_lasts_until_the_office_closes(seed):
    query = ask(subject(roles=["data_scientist"]), "dataset", "c", "read_data", attributes={"sensitivity": "low"})
    assert seed.decide(query).until_ns == ns("2026-11-23T17:00:00+00:00")


def test_a_deployment_needs_role_and_approval_and_mfa_and_is_audited(seed):
    production = {"stage": "production"}

    def decide(roles, approvals, mfa):
        who = subject(roles=roles, mfa=mfa)
        return seed.decide(ask(who, "model", "m", "deploy_model", attributes=production, approvals=approvals))

    allowed = decide(["mlops_engineer"], ["security_team"], mfa=True)
    assert (allowed.reason, allowed.audit_logged, allowed.policies) == (
        "allowed",
        True,
        ("production_model_deployment",),
    )
    assert decide(["mlops_engineer"], [], mfa=True).reason == "conditions_not_met"
    assert decide(["mlops_engineer"], ["security_team"], mfa=False).reason == "conditions_not_met"
    assert decide(["intern"], ["security_team"], mfa=True).reason == "no_policy"
