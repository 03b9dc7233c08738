"""JSON Schemas of what users write and of what the trail holds, for editors and pipelines.

Law: what loads is valid under its schema (tests hold every example against it);
the schema may allow what the loader then refuses. Non-goal: validation here.
"""

from typing import Any, Final

from ext_authz.audit.event import ALERT, CHECKPOINT, DECISION, GAP, LIFECYCLE, STATE
from ext_authz.config import Settings
from ext_authz.model import ACTIONS, Auth, Reason, Risk
from ext_authz.tools import cases

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_SCALAR: Final = {"type": ["string", "number", "boolean"]}
_VARIABLE: Final = {"type": "string", "pattern": r"\$\{([A-Z0-9_]+|file:[^}]+)\}"}
_DURATION: Final = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"}
_MOMENT: Final = {"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}"}

Schema = dict[str, Any]


def config_schema() -> Schema:
    """Return the schema of the configuration file."""
    schema = Settings.model_json_schema()
    cleaned: Schema = _clean(schema)
    return {"$schema": DRAFT, **cleaned, "title": "ext-authz configuration"}


def _clean(node: Any) -> Any:  # noqa: ANN401  JSON
    """Make pydantic's schema say what the file may hold: no null, and variables wherever a scalar is wanted."""
    if isinstance(node, list):
        return [_clean(each) for each in node]
    if not isinstance(node, dict):
        return node
    found = {key: _clean(value) for key, value in node.items() if key not in ("title", "default", "properties")}
    if "properties" in node:
        found["properties"] = {key: _clean(value) for key, value in node["properties"].items()}
    if node.get("default") is not None and isinstance(node["default"], (str, int, bool)):
        durations = node.get("pattern") == _DURATION["pattern"]
        found["default"] = f"{node['default']}s" if durations else node["default"]
    if "anyOf" in found:
        found["anyOf"] = [each for each in found["anyOf"] if each != {"type": "null"}]
        if len(found["anyOf"]) == 1:
            found.update(found.pop("anyOf")[0])
    return _with_variables(found)


def _with_variables(node: Schema) -> Schema:
    kinds = node.get("type")
    scalar = kinds in ("string", "integer", "number", "boolean") or isinstance(kinds, list)
    if not scalar or "format" in node:
        return node
    if kinds == "string" and not ("pattern" in node or "enum" in node):
        # Text is the text as written, whatever an editor takes it for.
        return {**node, "type": ["string", "number", "boolean"]}
    keep: Schema = {key: node[key] for key in ("description", "default") if key in node}
    bare = {key: value for key, value in node.items() if key not in keep}
    return {**keep, "anyOf": [bare, _VARIABLE]}


def policy_schema() -> Schema:
    """Return the schema of a policy file."""
    return {
        "$schema": DRAFT,
        "title": "ext-authz policies",
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "properties": {
            "policies": _list({"$ref": "#/$defs/policy"}, "Policies; order names the deciding one, never the effect."),
            "time_windows": {
                "description": "Windows that conditions of any file may name.",
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {"$ref": "#/$defs/window"},
            },
        },
        "$defs": {
            "policy": _POLICY,
            "subject": _SUBJECT,
            "resource": {
                "description": "Attributes that must all hold; `*` ends a prefix.",
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {"$ref": "#/$defs/values"},
            },
            "condition": _CONDITION,
            "window": _WINDOW,
            "action": {
                "description": "What adapters produce, a route's own action, or a prefix ending in `*`.",
                "anyOf": [{"enum": sorted(ACTIONS)}, _SCALAR],
            },
            "values": {"anyOf": [_SCALAR, {"type": "array", "minItems": 1, "items": _SCALAR}]},
        },
    }


def _list(items: Schema, description: str) -> Schema:
    return {"description": description, "type": "array", "minItems": 1, "items": items}


def _values(description: str) -> Schema:
    return {"description": description, "$ref": "#/$defs/values"}


_POLICY: Final[Schema] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["id"],
    "properties": {
        "id": {"description": "Name of the policy, unique over all files.", **_SCALAR},
        "description": {"description": "For people.", **_SCALAR},
        "effect": {"description": "A matching deny beats every allow.", "enum": ["allow", "deny"], "default": "allow"},
        "mode": {"description": "`shadow`: evaluated and recorded only.", "enum": ["enforce", "shadow"]},
        "subjects": _list({"$ref": "#/$defs/subject"}, "Alternatives; keys of one entry must all hold."),
        "resources": _list({"$ref": "#/$defs/resource"}, "Alternatives."),
        "actions": {
            "description": "Alternatives.",
            "anyOf": [
                {"$ref": "#/$defs/action"},
                {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/action"}},
            ],
        },
        "conditions": _list({"$ref": "#/$defs/condition"}, "All must hold."),
        "approvals": {"description": "People that each approval needs.", "type": "integer", "minimum": 1},
        "ttl": {"description": "How long the answer may be relied on.", **_DURATION, "default": "1h"},
        "not_before": {"description": "The policy begins.", **_MOMENT},
        "not_after": {"description": "The policy ends.", **_MOMENT},
        "headers": {
            "description": "Headers for the upstream, as templates.",
            "type": "object",
            "additionalProperties": _SCALAR,
        },
    },
}
_SUBJECT: Final[Schema] = {
    "type": "object",
    "additionalProperties": False,
    "minProperties": 1,
    "properties": {
        "role": _values("A role, from the credential or a role binding."),
        "id": _values("A typed name; a bare one means `sub:`."),
        "group": _values("A group of the subject."),
        "org": _values("Its organisation."),
        "auth": {
            "description": "How it proved itself.",
            "anyOf": [
                {"enum": [each.value for each in Auth]},
                {"type": "array", "minItems": 1, "items": {"enum": [each.value for each in Auth]}},
            ],
        },
        "scope": _values("A scope of its token."),
        "issuer": _values("Who issued its token."),
        "workload": _values("Typed name of the client certificate beneath it."),
        "claim": {
            "description": "Claims of its token by dotted path.",
            "type": "object",
            "additionalProperties": {"$ref": "#/$defs/values"},
        },
        "any": {"description": "Everybody with a credential.", "const": True},
        "approval": {"description": "A group that must approve, whichever entry matches.", **_SCALAR},
    },
}
_CONDITION: Final[Schema] = {
    "type": "object",
    "additionalProperties": False,
    "minProperties": 1,
    "properties": {
        "ip_range": _values("CIDRs of the caller's address."),
        "time_window": {
            "description": "Name of a window, or the window itself.",
            "anyOf": [{"type": "string"}, {"$ref": "#/$defs/window"}],
        },
        "mfa_required": {"description": "The subject used more than one factor.", "const": True},
        "audit_logged": {"description": "The decision is on durable storage before the answer leaves.", "const": True},
        "approval": {"description": "A member of this group approved.", **_SCALAR},
        "max_token_age": {"description": "The token is no older.", **_DURATION},
        "max_risk": {"description": "The subject's risk is no higher.", "enum": [r.value for r in Risk][:-1]},
        "max": {
            "description": "Limits on what adapters find in a request.",
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"type": "number"},
        },
        "cel": {"description": "A CEL expression that must be true.", "type": ["string", "boolean"]},
    },
}
_WINDOW: Final[Schema] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["from", "to"],
    "properties": {
        "days": {
            "description": "`mon`, `mon-fri`; every day if not given.",
            "anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}],
        },
        "from": {
            "description": "Wall clock, inclusive.",
            "type": "string",
            "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$",
        },
        "to": {"description": "Exclusive; before `from` it is past midnight.", "type": "string"},
        "timezone": {"description": "IANA zone.", "type": "string", "default": "UTC"},
    },
}


def cases_schema() -> Schema:
    """Return the schema of a policy test file."""
    texts = {"type": "array", "items": _SCALAR}
    either = {"anyOf": [_SCALAR, texts]}
    subject: Schema = dict.fromkeys(cases.SUBJECT_KEYS, _SCALAR)
    subject |= dict.fromkeys(("roles", "groups", "scopes"), either)
    subject |= {
        "claims": {"type": "object"},
        "auth": {"enum": [each.value for each in Auth]},
        "mfa": {"type": "boolean"},
    }
    expect: Schema = dict.fromkeys(cases.EXPECT_KEYS, _SCALAR)
    expect |= dict.fromkeys(("policies", "shadow", "remove_headers"), either)
    expect |= {
        "decision": {"enum": ["allow", "deny"]},
        "reason": {"enum": [each.value for each in Reason]},
        "resource": _record({"type": _SCALAR, "id": _SCALAR}, ["type"]),
        "headers": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
    }
    approval = _record({"group": _SCALAR, "approver": _SCALAR}, ["group"])
    context: Schema = dict.fromkeys(cases.CONTEXT_KEYS, _SCALAR)
    context["risk"] = {"enum": [*(each.value for each in Risk), "unknown"]}
    context["approvals"] = {"anyOf": [{"const": "unknown"}, {"type": "array", "items": {"anyOf": [_SCALAR, approval]}}]}
    at: Schema = {"description": "Every clock of the case.", **_MOMENT}
    described_subject: Schema = _record(subject, [])
    described_resource: Schema = {"type": "object", "required": ["type"], "additionalProperties": _SCALAR}
    named = {"description": "Name of a fixture of this file.", **_SCALAR}
    case: Schema = {
        "name": _SCALAR,
        "at": at,
        "subject": {"anyOf": [named, described_subject]},
        "resource": {"anyOf": [named, {**described_resource, "required": []}]},
        "action": _SCALAR,
        "attributes": {"type": "object", "additionalProperties": _SCALAR},
        "request": {"description": "A CheckRequest in proto JSON.", "type": "object"},
        "context": _record(context, []),
        "expect": _record(expect, ["decision"]),
    }
    table = _list(_record(dict(case), []), "One case for each row; what a row says goes before what the test says.")
    fixtures = {
        "subjects": {
            "description": "Subjects that tests of this file may name.",
            "type": "object",
            "additionalProperties": described_subject,
        },
        "resources": {
            "description": "Resources that tests of this file may name.",
            "type": "object",
            "additionalProperties": described_resource,
        },
    }
    tests = _list(_record({**case, "each": table}, ["name"]), "Cases.")
    return {
        "$schema": DRAFT,
        "title": "ext-authz policy tests",
        **_record({"at": at, **fixtures, "tests": tests}, ["tests"]),
    }


def _record(properties: Schema, required: list[str]) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required}


def audit_schema() -> Schema:
    """Return the schema of the audit trail's events."""
    text, texts = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
    digest: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    head: Schema = {"event_id": text, "seq": {"type": "integer", "minimum": 0}, "time": text}
    resource = _record({"type": text, "id": text, "version": text, "attributes": {"type": "object"}}, [])
    shadow = _record({"policy_id": text, "effect": {"enum": ["allow", "deny"]}}, ["policy_id", "effect"])
    decision: Schema = {
        **head,
        "schema": {"const": DECISION},
        "decision_id": text,
        "decision": {"enum": ["allow", "deny"]},
        "reason": {"enum": [each.value for each in Reason]},
        "http_status": {"type": "integer"},
        "policy_id": text,
        "policies": texts,
        "shadow": {"type": "array", "items": shadow},
        "policy_revision": text,
        "subject": {"type": "object"},
        "resource": resource,
        "action": text,
        "context": {"type": "object"},
        "headers": texts,
        "ttl": {"type": "integer", "minimum": 0},
        "coalesced": {"type": "integer", "minimum": 1},
        "erased": texts,
    }
    alert: Schema = {
        "alert": text,
        "told": {"type": "integer", "minimum": 1},
        "status": {"enum": ["firing", "resolved"]},
        "detector": text,
        "severity": {"enum": [each.value for each in Risk]},
        "explanation": text,
        "evidence": texts,
        "findings": {"type": "integer", "minimum": 1},
        "since": text,
        "last": text,
        "until": text,
    }
    return {
        "$schema": DRAFT,
        "title": "ext-authz audit events",
        "oneOf": [
            {
                "type": "object",
                "required": [*head, "schema", "decision_id", "decision", "reason"],
                "properties": decision,
            },
            {
                "type": "object",
                "required": [*head, "schema", "event", "result"],
                "properties": {
                    **head,
                    "schema": {"const": LIFECYCLE},
                    "event": text,
                    "result": {"enum": ["ok", "failed"]},
                },
            },
            {
                "type": "object",
                "required": [*head, "schema", "event", "record"],
                "properties": {**head, "schema": {"const": STATE}, "event": text, "record": {"type": "object"}},
            },
            {
                "type": "object",
                "required": [*head, "schema", "count", "since", "until"],
                "properties": {
                    **head,
                    "schema": {"const": GAP},
                    "count": {"type": "integer", "minimum": 1},
                    "since": text,
                    "until": text,
                },
            },
            {
                "type": "object",
                "required": [*head, "schema", *alert],
                "properties": {
                    **head,
                    **alert,
                    "schema": {"const": ALERT},
                    "subject": text,
                    "source": text,
                    "claimed_subject": text,
                    "about": text,
                    "response": _record({"risk": text, "quarantine_until": text, "withheld": text}, []),
                    "erased": texts,
                },
            },
            {
                "type": "object",
                "required": [*head, "schema", "log_id", "cause", "size", "root", "nodes", "key"],
                "properties": {
                    **head,
                    "schema": {"const": CHECKPOINT},
                    "log_id": text,
                    "cause": {"enum": ["start", "interval", "rotation", "seal"]},
                    "size": {"type": "integer", "minimum": 0},
                    "root": digest,
                    "nodes": {"type": "array", "items": digest},
                    "key": text,
                    "note": text,
                },
            },
        ],
    }
