"""TorchServe: inference, management and metrics, REST and gRPC.

Law: the server ignores the HTTP method of inference calls, so do we; where it
would take a default of its own the model may be any. Non-goal: plugins' endpoints.
"""

from typing import Final

from ext_authz.mappers import grpc_common
from ext_authz.mappers.adapter import EVERY, GRPC, Adapter, Call, Meaning, Named, Place, Reads, Row
from ext_authz.mappers.body import refuse
from ext_authz.mappers.multipart import FORM, form_fields
from ext_authz.mappers.places import (
    EVERYTHING,
    PATH,
    SERVER,
    every_meaning,
    message,
    message_fields,
    name_in,
    path_meaning,
    told_meaning,
)
from ext_authz.mappers.query import parameters
from ext_authz.model import Reason, Refusal

_FORM_FIELDS: Final = frozenset({"model_name"})
# The server looks at these words, and at a last `predict`, before it looks for what we would.
_WORDS: Final = frozenset(
    {"ping", "predictions", "explanations", "api-description", "invocations", "models", "workflows", "wfpredict",
     "metrics", "v1", "v2"}
)  # fmt: skip
_REGISTERS: Final = (("model", "deploy_model"),)


def _registered(name: str) -> Meaning:
    # Without a name the archive names itself.
    return Meaning(tuple(Named("model", name or EVERY, "", action) for action in ("register_model", "deploy_model")))


def _register(call: Call) -> Meaning | Refusal:
    if any("json" in kind.lower() for kind in call.facts.headers.get("content-type", ())):
        return _registered("")  # the server reads the body instead of the query
    found = parameters(call.query, frozenset({"model_name", "url"}))
    if isinstance(found, Refusal):
        return found
    name = name_in(found, "model_name") if found.get("model_name") else ""
    return name if isinstance(name, Refusal) else _registered(name)


def _register_grpc(call: Call) -> Meaning | Refusal:
    found = message_fields(call, 5)
    return found if isinstance(found, Refusal) else _registered(found[0])


def _invoked(call: Call) -> Meaning | Refusal:
    """Read `model_name` of the query, which the server prefers, or of a form; without one it takes a default."""
    query = parameters(call.query, _FORM_FIELDS)
    if isinstance(query, Refusal):
        return query
    names = {query["model_name"]} if query.get("model_name") else set()
    kinds = call.facts.headers.get("content-type", ())
    if call.facts.body.data and any(FORM in kind.lower() for kind in kinds):
        fields = form_fields(call.facts, call.max_request_bytes, _FORM_FIELDS)
        if isinstance(fields, Refusal):
            return fields
        if fields.get("model_name"):
            names.add(fields["model_name"])
    if not names:
        return every_meaning(call)
    if len(names) > 1:
        return refuse("names another model than the query")
    name = name_in({"model_name": names.pop()}, "model_name")
    return name if isinstance(name, Refusal) else Meaning((Named("model", name, "", call.row.action),))


def _told(call: Call, name: str, version: str) -> Meaning | Refusal:
    query = parameters(call.query, _FORM_FIELDS)
    if isinstance(query, Refusal):
        return query
    if query.get("model_name", name) not in ("", name):
        return refuse("is told to name another model than the query")
    return told_meaning(call, name, version)


def _plain(call: Call) -> Meaning | Refusal:
    """Names that hold `:` are cut at the first one by the V1 and V2 paths."""
    if ":" in call.captured["model"]:
        return Refusal(Reason.NO_ROUTE, "TorchServe would read another model")
    return _no_legacy(call)


def _no_legacy(call: Call) -> Meaning | Refusal:
    """Refuse a path that the server may read as the older form `/MODEL/predict` or `/MODEL/VERSION/predict`."""
    if next(iter(call.captured.values())) == "predict":
        return Refusal(Reason.NO_ROUTE, "TorchServe would read another model")
    return path_meaning(call)


def _legacy(call: Call) -> Meaning | Refusal:
    if call.captured["model"] in _WORDS:
        return Refusal(Reason.NO_ROUTE, "TorchServe would read no model")
    return path_meaning(call)


_REGISTER = Place("query `model_name` (absent, or a JSON body: any)", _register)
_REGISTER_MESSAGE = Place("message field 5 (empty: any)", _register_grpc, Reads.MEANING)
_PLAIN = Place("path", _plain)
_NO_LEGACY = Place("path", _no_legacy)
_LEGACY = Place("path", _legacy)
_INVOKED = Place("query or form field `model_name` (neither, or not shown: any)", _invoked, Reads.MEANING, _told)
_NAMED = message(1, 2)
_MODEL: Final = "/models/{model}"
_INFERENCE: Final = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
_MANAGEMENT: Final = "/org.pytorch.serve.grpc.management.ManagementAPIsService/"

ADAPTER: Final = Adapter(
    "torchserve",
    (
        Row("GET", "/ping", "health", SERVER, "server"),
        Row("GET", "/metrics", "read_metrics", SERVER, "server"),
        Row(EVERY, "/predictions/{model}", "infer", PATH),
        Row(EVERY, "/predictions/{model}/{version}", "infer", PATH),
        Row(EVERY, "/predictions/{model}/{version}/{rest**}", "infer", PATH),
        Row(EVERY, "/explanations/{model}", "explain", PATH),
        Row(EVERY, "/explanations/{model}/{version}", "explain", PATH),
        Row(EVERY, "/models/{model}/invoke", "infer", PATH),
        Row(EVERY, "/invocations", "infer", _INVOKED),
        Row(EVERY, "/wfpredict/{workflow}", "infer", _NO_LEGACY, "workflow"),
        Row(EVERY, "/{model}/predict", "infer", _LEGACY),
        Row(EVERY, "/{model}/{version}/predict", "infer", _LEGACY),
        Row("OPTIONS", "/", "read_metadata", SERVER, "server"),
        Row(EVERY, "/api-description", "read_metadata", SERVER, "server"),
        Row("GET", "/v1/models/{model}", "health", _PLAIN),
        Row("POST", "/v1/models/{model}:predict", "infer", _PLAIN),
        Row("POST", "/v2/models/{model}/infer", "infer", _PLAIN),
        Row("POST", "/v2/models/{model}/explain", "explain", _PLAIN),
        Row("GET", "/models", "list_models", SERVER, "server"),
        Row("POST", "/models", "register_model", _REGISTER, also=_REGISTERS),
        Row("GET", _MODEL, "read_metadata", PATH),
        Row("OPTIONS", _MODEL, "read_metadata", PATH),
        Row("PUT", _MODEL, "update_model", PATH),
        Row("DELETE", _MODEL, "undeploy_model", PATH),
        Row("GET", f"{_MODEL}/{{version}}", "read_metadata", PATH),
        Row("OPTIONS", f"{_MODEL}/{{version}}", "read_metadata", PATH),
        Row("PUT", f"{_MODEL}/{{version}}", "update_model", PATH),
        Row("DELETE", f"{_MODEL}/{{version}}", "undeploy_model", PATH),
        Row("PUT", f"{_MODEL}/{{version}}/set-default", "update_model", PATH),
        Row("GET", "/workflows", "list_models", SERVER, "server", lists="workflow"),
        Row("POST", "/workflows", "register_model", EVERYTHING, "workflow"),
        Row("GET", "/workflows/{workflow}", "read_metadata", _NO_LEGACY, "workflow"),
        Row("DELETE", "/workflows/{workflow}", "undeploy_model", _NO_LEGACY, "workflow"),
        Row(GRPC, f"{_INFERENCE}Ping", "health", SERVER, "server"),
        Row(GRPC, f"{_INFERENCE}Predictions", "infer", _NAMED),
        Row(GRPC, f"{_INFERENCE}StreamPredictions", "infer", _NAMED),
        Row(GRPC, f"{_INFERENCE}StreamPredictions2", "infer", EVERYTHING),
        Row(GRPC, f"{_MANAGEMENT}Ping", "health", SERVER, "server"),
        Row(GRPC, f"{_MANAGEMENT}ListModels", "list_models", SERVER, "server"),
        Row(GRPC, f"{_MANAGEMENT}DescribeModel", "read_metadata", _NAMED),
        Row(GRPC, f"{_MANAGEMENT}RegisterModel", "register_model", _REGISTER_MESSAGE, also=_REGISTERS),
        Row(GRPC, f"{_MANAGEMENT}ScaleWorker", "update_model", _NAMED),
        Row(GRPC, f"{_MANAGEMENT}SetDefault", "update_model", _NAMED),
        Row(GRPC, f"{_MANAGEMENT}UnregisterModel", "undeploy_model", _NAMED),
        *grpc_common.ROWS,
    ),
    error_shape="torchserve",
)
