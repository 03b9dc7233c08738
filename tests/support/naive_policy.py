"""An obviously right policy interpreter, read straight off CONTRACT section 4: no index, no compilation.

It works on the policy file as plain data (what JSON or YAML says), scans every
policy in order and knows nothing of `ext_authz.policy`.
"""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

UNKNOWN = object()
DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
RISKS = ["low", "medium", "high", "critical"]
BUSINESS_HOURS = {"days": ["mon-fri"], "from": "09:00", "to": "17:00", "timezone": "UTC"}


@dataclass(frozen=True)
class Answer:
    reason: str
    policy: str | None
    policies: tuple
    shadow: tuple
    audit_logged: bool
    ttl: int | None
    headers: dict


def listed(value):
    return value if isinstance(value, list) else [value]


def fits(pattern, text):
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == text


def fits_one(patterns, texts):
    return any(fits(pattern, text) for pattern in listed(patterns) for text in texts)


def seconds(duration):
    return int(duration[:-1]) * SECONDS[duration[-1]]


# --- subjects ---------------------------------------------------------------------------------------------------------


def typed(name):
    kinds = ("sub:", "key:", "spiffe://", "dns:", "x509:")
    return name if name == "*" or name.startswith(kinds) else "sub:" + name


def claim(claims, path):
    if path in claims:
        return claims[path]
    for step in path.split("."):
        if not isinstance(claims, dict) or step not in claims:
            return None
        claims = claims[step]
    return claims


def words(value):
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if isinstance(value, (str, int)):
        return [str(value)]
    if isinstance(value, list):
        return [word for item in value if not isinstance(item, list) for word in words(item)]
    return []


def subject_key(key, wanted, subject):
    if key == "any":
        return True
    if key == "role":
        return fits_one(wanted, subject.roles)
    if key == "group":
        return fits_one(wanted, subject.groups)
    if key == "scope":
        return fits_one(wanted, subject.scopes)
    if key == "id":
        return fits_one([typed(name) for name in listed(wanted)], [subject.id])
    if key == "auth":
        return subject.auth.value in listed(wanted)
    if key == "claim":
        return all(fits_one(values, words(claim(subject.claims, path))) for path, values in wanted.items())
    text = {"org": subject.org, "issuer": subject.issuer, "workload": subject.workload}[key]
    return text != "" and fits_one(wanted, [text])


def subject_matches(policy, subject):
    if "subjects" not in policy:
        return True
    deny = policy.get("effect") == "deny"
    for entry in policy["subjects"]:
        if list(entry) == ["approval"]:
            continue
        if subject.auth.value == "anonymous":
            says_so = "anonymous" in listed(entry.get("auth", []))
            if not says_so and not (deny and "any" in entry):
                continue
        if all(subject_key(key, wanted, subject) for key, wanted in entry.items()):
            return True
    return False


# --- resources, actions -----------------------------------------------------------------------------------------------


def attribute(resource, key):
    if key in ("type", "id"):
        return getattr(resource, key)
    if key == "version" and resource.version:
        return resource.version
    value = resource.attributes.get(key)
    return UNKNOWN if value is None else words(value)[0]


def resource_key(key, wanted, resource, deny):
    value = attribute(resource, key)
    if value is UNKNOWN:
        return deny
    if deny and key == "id" and (value == "*" or value.endswith("/*")):
        below = value[:-1]
        return any(
            text.startswith(below) or (text[-1:] == "*" and below.startswith(text[:-1])) for text in listed(wanted)
        )
    return fits_one(wanted, [value])


def resource_matches(policy, resource):
    deny = policy.get("effect") == "deny"
    if "resources" not in policy:
        return True
    return any(
        all(resource_key(key, wanted, resource, deny) for key, wanted in entry.items()) for entry in policy["resources"]
    )


def action_matches(policy, action):
    return "actions" not in policy or fits_one(policy["actions"], [action])


# --- conditions: True, False or UNKNOWN ------------------------------------------------------------------------------


def clock(text):
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


def weekdays(written):
    days = set()
    for text in written:
        first, _, last = text.partition("-")
        day = DAYS.index(first)
        days.add(day)
        while last and day != DAYS.index(last):
            day = (day + 1) % 7
            days.add(day)
    return days


def window_open(window, time_ns):
    local = datetime.fromtimestamp(time_ns // 10**9, UTC).astimezone(ZoneInfo(window.get("timezone", "UTC")))
    minute = local.hour * 60 + local.minute
    today, yesterday = local.weekday(), (local - timedelta(days=1)).weekday()
    days, start, end = weekdays(window.get("days", ["mon-sun"])), clock(window["from"]), clock(window["to"])
    if start < end:
        return today in days and start <= minute < end
    return (today in days and minute >= start) or (yesterday in days and minute < end)


def whom(name):
    kind, _, rest = name.partition(":")
    return rest if kind in {"sub", "key", "os"} else name


def approvers(group, policy, query, digest):
    return {
        whom(each.approver)
        for each in query.context.approvals
        if each.group == group
        and whom(each.approver) != whom(query.subject.id)
        and (each.expires_at is None or each.expires_at * 10**9 > query.context.now_ns)
        and each.policy in (None, policy["id"])
        and each.policy_digest in (None, digest)
        and each.subject in (None, query.subject.id)
        and each.resource in (None, f"{query.resource.type}/{query.resource.id}")
    }


def known(value, judge):
    return UNKNOWN if value is None or value is UNKNOWN else judge(value)


def whole(value):
    return value if isinstance(value, int) and not isinstance(value, bool) else None


# What a few CEL expressions say, each in Python: reading what is not there, or comparing what cannot be, is an error.
EXPRESSIONS = {
    "subject.mfa": lambda query: query.subject.mfa,
    'subject.org != "acme"': lambda query: query.subject.org != "acme",
    '"ds" in subject.roles': lambda query: "ds" in query.subject.roles,
    'subject.claims.team == "x"': lambda query: known(claim(query.subject.claims, "team"), lambda team: team == "x"),
    'resource.stage == "production"': lambda query: known(
        query.resource.attributes.get("stage"), lambda stage: stage == "production"
    ),
    'resource.version != "1"': lambda query: known(
        attribute(query.resource, "version"), lambda version: version != "1"
    ),
    'resource.id != "fraud"': lambda query: (
        UNKNOWN if query.resource.id.endswith("*") else query.resource.id != "fraud"
    ),
    "request.batch <= 8": lambda query: known(whole(query.attributes.get("batch")), lambda batch: batch <= 8),
    'context.risk != "high"': lambda query: known(query.context.risk, lambda risk: risk.value != "high"),
    'action == "infer" || 1 / 0 == 1': lambda query: True if query.action == "infer" else UNKNOWN,
    "1 / 0 == 1": lambda query: UNKNOWN,
}


def condition(kind, wanted, policy, query, windows, digest):  # noqa: PLR0917
    context = query.context
    if kind == "audit_logged":
        return True
    if kind == "mfa_required":
        return query.subject.mfa
    if kind == "cel":
        return EXPRESSIONS[wanted](query)
    if kind == "ip_range":
        if context.ip is None:
            return UNKNOWN
        ip = getattr(context.ip, "ipv4_mapped", None) or context.ip
        return any(ip in ipaddress.ip_network(text) for text in listed(wanted))
    if kind == "time_window":
        window = wanted if isinstance(wanted, dict) else {"business_hours": BUSINESS_HOURS, **windows}[wanted]
        return window_open(window, context.time_ns)
    if kind == "approval":
        if context.approvals is None:
            return UNKNOWN
        return len(approvers(wanted, policy, query, digest)) >= int(policy.get("approvals", 1))
    if kind == "max_token_age":
        if query.subject.issued_at is None:
            return UNKNOWN
        return context.now_ns - query.subject.issued_at * 10**9 <= seconds(wanted) * 10**9
    if kind == "max_risk":
        return UNKNOWN if context.risk is None else RISKS.index(context.risk.value) <= RISKS.index(wanted)
    assert kind == "max", kind
    values = [(query.attributes.get(name), float(limit)) for name, limit in wanted.items()]
    answers = [
        value <= limit if isinstance(value, int) and not isinstance(value, bool) else UNKNOWN for value, limit in values
    ]
    return False if False in answers else UNKNOWN if UNKNOWN in answers else True


def moment(text):
    return datetime.fromisoformat(text).timestamp() * 10**9


def conditions(policy):
    for entry in policy.get("subjects", ()):
        if list(entry) == ["approval"]:
            yield "approval", entry["approval"]
    for entry in policy.get("conditions", ()):
        yield from entry.items()


def conditions_hold(policy, query, windows, digest):
    now = query.context.now_ns
    if "not_before" in policy and now < moment(policy["not_before"]):
        return False
    if "not_after" in policy and now >= moment(policy["not_after"]):
        return False
    answers = [condition(kind, wanted, policy, query, windows, digest) for kind, wanted in conditions(policy)]
    if policy.get("effect") == "deny":
        return all(answer is True or answer is UNKNOWN for answer in answers)
    return all(answer is True for answer in answers)


# --- the decision -----------------------------------------------------------------------------------------------------


def decide(policies, windows, query, digests):
    """`policies` in order as plain data, `windows` by name, `digests` by policy id."""
    allows, denies, shadow, unmet = [], [], [], []
    for policy in policies:
        effect, mode = policy.get("effect", "allow"), policy.get("mode", "enforce")
        if not (
            subject_matches(policy, query.subject)
            and resource_matches(policy, query.resource)
            and action_matches(policy, query.action)
        ):
            continue
        if conditions_hold(policy, query, windows, digests[policy["id"]]):
            if mode == "shadow":
                shadow.append((policy["id"], effect))
            else:
                (denies if effect == "deny" else allows).append(policy)
        elif mode == "enforce" and effect == "allow":
            unmet.append(policy)

    def answer(reason, named, matched):
        asked = any("audit_logged" in entry for policy in matched for entry in policy.get("conditions", ()))
        return Answer(
            reason,
            named["id"] if named else None,
            tuple(policy["id"] for policy in matched),
            tuple(shadow),
            asked,
            seconds(named.get("ttl", "1h")) if reason == "allowed" else None,
            named.get("headers", {}) if reason == "allowed" else {},
        )

    if denies:
        return answer("denied_by_policy", denies[0], denies)
    if allows:
        return answer("allowed", allows[0], allows)
    if unmet:
        return answer("conditions_not_met", unmet[0], [])
    return answer("no_policy", None, [])
