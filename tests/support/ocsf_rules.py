"""What OCSF asks of an event: a table for the classes used here, and the whole of it where its schema is at hand.

The table was written from ocsf-schema 1.8.0 (requirement, type and at_least_one of classes and objects).
"""

import json
from pathlib import Path
from typing import Any

ENTITY = {"at_least_one": ("name", "uid", "type", "account")}
BASE = {
    "activity_id": int, "category_uid": int, "class_uid": int, "type_uid": int, "severity_id": int, "time": int,
    "metadata.version": str, "metadata.product.name": str,
}  # fmt: skip
CLASSES: dict[int, dict[str, Any]] = {
    0: {},
    2004: {"finding_info.uid": str},
    3004: {"entity": dict, "entity.uid": str},
    6002: {"app": dict, "app.name": str},
    6003: {"actor": dict, "api": dict, "api.operation": str, "src_endpoint": dict},
}
CATEGORIES = {0: 0, 2004: 2, 3004: 3, 6002: 6, 6003: 6}
AT_LEAST_ONE = {
    "actor": ("process", "user", "iam_role", "invoked_by", "session", "app_name", "app_uid"),
    "src_endpoint": ("ip", "uid", "name", "hostname", "svc_name", "instance_uid", "interface_uid", "domain"),
    "policy": ("name", "type", "uid"),
    "actor.user": ("account", "name", "uid"),
}


def missing(event: dict[str, Any]) -> list[str]:
    """Return what is required and absent, of another type, or empty."""
    found = [name for name, kind in (BASE | CLASSES[event["class_uid"]]).items() if type(_at(event, name)) is not kind]
    if CATEGORIES[event["class_uid"]] != event["category_uid"]:
        found.append("category_uid")
    for name, members in AT_LEAST_ONE.items():
        value = _at(event, name)
        if isinstance(value, dict) and not any(value.get(each) for each in members):
            found.append(name)
    if "request" in event.get("api", {}) and not event["api"]["request"].get("uid"):
        found.append("api.request.uid")
    return found


def _at(event: Any, path: str) -> Any:
    for step in path.split("."):
        event = event.get(step) if isinstance(event, dict) else None
    return event


TYPES = {
    "integer_t": int, "long_t": int, "timestamp_t": int, "port_t": int, "string_t": str, "boolean_t": bool,
    "float_t": float, "url_t": str, "ip_t": str, "hostname_t": str, "datetime_t": str, "json_t": object,
    "username_t": str, "email_t": str, "uuid_t": str, "resource_uid_t": str, "object_t": dict,
}  # fmt: skip


class Schema:
    """A checkout of ocsf/ocsf-schema."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._dictionary = json.loads((folder / "dictionary.json").read_text())["attributes"]
        self._events = {}
        self._objects = {}
        for path in (folder / "events").rglob("*.json"):
            made = json.loads(path.read_text())
            self._events[made["name"]] = made
        for path in (folder / "objects").glob("*.json"):
            made = json.loads(path.read_text())
            self._objects[made["name"]] = made
        categories = json.loads((folder / "categories.json").read_text())["attributes"]
        self._uids = {
            categories.get(self._category(name), {"uid": 0})["uid"] * 1000 + made.get("uid", 0): name
            for name, made in self._events.items()
            if "uid" in made
        } | {0: "base_event"}

    def _category(self, name: str) -> str:
        made = self._events[name]
        return made.get("category") or (self._category(made["extends"]) if "extends" in made else "")

    def _attributes(self, kinds: dict[str, Any], name: str) -> tuple[dict[str, Any], list[Any]]:
        made = kinds[name]
        attributes, constraints = ({}, [])
        if "extends" in made and made["extends"] in kinds:
            attributes, constraints = self._attributes(kinds, made["extends"])
        if "constraints" in made:
            constraints = [made["constraints"]]
        included = made["attributes"].get("$include", [])
        for file in [included] if isinstance(included, str) else included:
            profile = json.loads((self._folder / file).read_text())
            added = {key: {"profile": profile["name"], **value} for key, value in profile["attributes"].items()}
            attributes = attributes | {key: value for key, value in added.items() if key not in attributes}
        own = {key: value for key, value in made["attributes"].items() if key != "$include"}
        return attributes | {k: {**attributes.get(k, {}), **v} for k, v in own.items()}, constraints

    def mistakes(self, event: dict[str, Any]) -> list[str]:
        name = self._uids[event["class_uid"]]
        return list(
            self._object(event, *self._attributes(self._events, name), name, event["metadata"].get("profiles", []))
        )

    def _object(self, value: dict[str, Any], attributes: Any, constraints: Any, path: str, profiles: Any) -> Any:
        for key, each in attributes.items():
            profile = each.get("profile")
            if each.get("requirement") == "required" and key not in value and (not profile or profile in profiles):
                yield f"{path}.{key} is missing"
        for rule in constraints:
            if "at_least_one" in rule and not any(key in value for key in rule["at_least_one"]):
                yield f"{path}: none of {rule['at_least_one']}"
        for key, each in value.items():
            if key not in attributes:
                yield f"{path}.{key} is unknown"
                continue
            about = {**self._dictionary[key], **attributes[key]}
            values = each if about.get("is_array") else [each]
            if not isinstance(values, list):
                yield f"{path}.{key} is no list"
                continue
            for one in values:
                yield from self._value(one, about, f"{path}.{key}", profiles)

    def _value(self, one: Any, about: dict[str, Any], path: str, profiles: Any) -> Any:
        kind = about["type"]
        if kind in self._objects:
            if not isinstance(one, dict):
                yield f"{path} is no object"
            elif kind != "object":
                yield from self._object(one, *self._attributes(self._objects, kind), path, profiles)
            return
        if kind in TYPES and (not isinstance(one, TYPES[kind]) or (TYPES[kind] is int and isinstance(one, bool))):
            yield f"{path} is no {kind}"
        if path.endswith((".class_uid", ".category_uid", ".type_uid")):
            return  # the class was found by it
        if "enum" in about and str(one) not in {
            *about["enum"],
            *self._dictionary.get(path.rpartition(".")[2], {}).get("enum", {}),
        }:
            yield f"{path} is none of its values: {one}"
