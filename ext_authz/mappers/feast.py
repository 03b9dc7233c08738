"""Feast: the feature server, REST and gRPC, and the registry.

Law: every feature view of a request counts; a materialisation that lists none
is of all. Non-goal: entities.
"""

from typing import Final

from ext_authz.mappers import grpc_common
from ext_authz.mappers.adapter import EVERY, GRPC, Adapter, Call, Meaning, Named, Place, Reads, Row
from ext_authz.mappers.body import FRAME_HEADER, grpc_message, refuse
from ext_authz.mappers.places import EVERYTHING, PATH, SERVER, body_with, json_key, message, name_in, name_problem
from ext_authz.mappers.wire import BYTES, WireError, only, scan, text
from ext_authz.model import Refusal

MAX_VIEWS: Final = 64
MAX_FEATURES: Final = 1024
_SERVICE: Final = "feature_service"
_VIEW: Final = "feature_view"


def _views(call: Call, listed: object, kind: str) -> list[Named] | Refusal:
    """Return the views of `view:feature` references (or, for `names`, of plain names), each once."""
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_FEATURES:
        return refuse(f"has no list of {kind}")
    named: dict[Named, None] = {}
    for each in listed:
        view, colon, _ = each.partition(":") if isinstance(each, str) else ("", "", "")
        # `view@v2:feature` is a version of the view.
        name, _, version = view.partition("@")
        if name_problem(name) or (kind == "features") != bool(colon):
            return refuse(f"has {kind} that name no feature view")
        named[Named(_VIEW, name, version, call.row.action)] = None
    return list(named) if len(named) <= MAX_VIEWS else refuse(f"names more than {MAX_VIEWS} feature views")


def _features(call: Call) -> Meaning | Refusal:
    content = body_with(call, frozenset({"features", _SERVICE}))
    if isinstance(content, Refusal):
        return content
    named: list[Named] = []
    if content.get(_SERVICE) is not None:
        service = name_in(content, _SERVICE)
        if isinstance(service, Refusal):
            return service
        named.append(Named(_SERVICE, service, "", call.row.action))
    if content.get("features") or not named:
        views = _views(call, content.get("features"), "features")
        if isinstance(views, Refusal):
            return views
        named += views
    return Meaning(tuple(named))


def _materialised(call: Call) -> Meaning | Refusal:
    content = body_with(call, frozenset({"feature_views"}))
    if isinstance(content, Refusal):
        return content
    if not content.get("feature_views"):
        return Meaning((Named(_VIEW, EVERY, "", call.row.action),))
    views = _views(call, content["feature_views"], "feature_views")
    return views if isinstance(views, Refusal) else Meaning(tuple(views))


def _features_message(call: Call) -> Meaning | Refusal:
    """Read a GetOnlineFeaturesRequest: oneof (feature_service 1, features 2: FeatureList {val 1, repeated})."""
    data = grpc_message(call.facts, call.max_request_bytes)
    if isinstance(data, Refusal):
        return data
    try:
        fields = scan(data, FRAME_HEADER, len(data), {1: BYTES, 2: BYTES})
        service, features = text(data, fields, 1), only(fields, 2)
        if (features is None) == (not service):
            return refuse("names no features, or in two ways")
        if features is None:
            problem = name_problem(service)
            return refuse(problem) if problem else Meaning((Named(_SERVICE, service, "", call.row.action),))
        values = scan(data, features.start, features.end, {1: BYTES}, MAX_FEATURES)
        listed = [data[value.start : value.end].decode() for value in values]
    except WireError as error:
        return refuse(f"holds {error}")
    except UnicodeDecodeError:
        return refuse("holds a name that is not UTF-8")
    views = _views(call, listed, "features")
    return views if isinstance(views, Refusal) else Meaning(tuple(views))


def _registry(call: Call) -> Meaning:
    reads = call.captured["call"].startswith(("Get", "List"))
    return Meaning((Named("server", call.route, "", "read_metadata" if reads else "admin"),))


_FEATURES = Place("body `feature_service`, `features` (`view:feature`), each", _features, Reads.MEANING)
_MATERIALISED = Place("body `feature_views`, each (none: any)", _materialised, Reads.MEANING)
_FEATURES_MESSAGE = Place("message fields 1 and 2, each", _features_message, Reads.MEANING)
_ALSO: Final = ((_VIEW, "read_data"),)
_KINDS: Final = {
    "entities": "entity",
    "data_sources": "data_source",
    "feature_views": _VIEW,
    "feature_services": _SERVICE,
    "saved_datasets": "dataset",
    "projects": "project",
    "permissions": "permission",
    "features": "feature",
}

ADAPTER: Final = Adapter(
    "feast",
    (
        Row("POST", "/get-online-features", "read_data", _FEATURES, _SERVICE, _ALSO),
        Row("POST", "/retrieve-online-documents", "read_data", _FEATURES, _SERVICE, _ALSO),
        Row("POST", "/search", "read_data", EVERYTHING, _VIEW),
        Row("POST", "/v1/vector_stores/{id}/search", "read_data", PATH, _VIEW),
        Row("POST", "/push", "write_data", json_key("push_source_name"), "data_source"),
        Row("POST", "/write-to-online-store", "write_data", json_key("feature_view_name"), _VIEW),
        Row("POST", "/materialize", "write_data", _MATERIALISED, _VIEW),
        Row("POST", "/materialize-incremental", "write_data", _MATERIALISED, _VIEW),
        Row("GET", "/health", "health", SERVER, "server"),
        Row("GET", "/metrics", "read_metrics", SERVER, "server"),
        Row("GET", "/chat", "read_metadata", SERVER, "server"),
        Row("GET", "/static/{path**}", "read_metadata", SERVER, "server"),
        # Reads a file of the caller's choice.
        Row("POST", "/read-document", "admin", SERVER, "server"),
        *(Row("GET", f"/{name}", "list_data", EVERYTHING, kind) for name, kind in _KINDS.items()),
        *(Row("GET", f"/{name}/{{id}}", "read_metadata", PATH, kind) for name, kind in _KINDS.items()),
        Row(GRPC, "/GrpcFeatureServer/Push", "write_data", message(2), "data_source"),
        Row(GRPC, "/GrpcFeatureServer/WriteToOnlineStore", "write_data", message(2), _VIEW),
        Row(GRPC, "/GrpcFeatureServer/GetOnlineFeatures", "read_data", _FEATURES_MESSAGE, _SERVICE, _ALSO),
        Row(GRPC, "/feast.serving.ServingService/GetOnlineFeatures", "read_data", _FEATURES_MESSAGE, _SERVICE, _ALSO),
        Row(GRPC, "/feast.serving.ServingService/GetFeastServingInfo", "read_metadata", SERVER, "server"),
        Row(GRPC, "/feast.registry.RegistryServer/{call}", "admin",
            Place("the server (`Get…`, `List…`: read)", _registry), "server", (("server", "read_metadata"),)),
        *grpc_common.ROWS,
    ),
)  # fmt: skip
