"""Open Inference Protocol V2 (KServe, MLServer, Triton, Seldon), REST and gRPC, with Triton's extensions.

Law: the REST path alone names the model (servers ignore `model_name` in the
body, so one that differs is refused); the gRPC message's fields do, by the
strict scanner. Non-goal: tensors, beyond their first dimension.
"""

import re
from collections.abc import Mapping
from itertools import chain
from typing import Any, Final

from ext_authz.mappers import grpc_common
from ext_authz.mappers.adapter import EVERY, GRPC, Adapter, Call, Meaning, Named, Place, Reads, Row
from ext_authz.mappers.body import (
    FRAME_HEADER,
    case_variant,
    certainly_empty,
    grpc_message,
    json_object,
    refuse,
    whole,
)
from ext_authz.mappers.places import (
    EVERYTHING,
    PATH,
    SERVER,
    Attributes,
    message,
    message_fields,
    name_problem,
    path_meaning,
    server_meaning,
    told_meaning,
    version_problem,
    whole_number,
)
from ext_authz.mappers.wire import BYTES, MAX_INNER_FIELDS, Field, WireError, only, packed, scan, text
from ext_authz.model import AttributeValue, Reason, Refusal

MAX_PARSED: Final = 64 * 1024
MAX_TENSORS: Final = 64
MAX_DIMENSIONS: Final = 16
_LENGTH = re.compile(r"[0-9]{1,9}\Z")
JSON_LENGTH: Final = "inference-header-content-length"

# Gateways that route by a header let it beat path and body (Seldon Core 2, ModelMesh).
_ROUTING: Final = ("seldon-model", "mm-model-id", "mm-vmodel-id")


def _agreed(call: Call, meaning: Meaning | Refusal) -> Meaning | Refusal:
    """Refuse a routing header that names anything but the one model."""
    if isinstance(meaning, Refusal):
        return meaning
    headers = call.facts.headers
    for name in _ROUTING:
        values = headers.get(name)
        if values is None:
            continue
        ids = {named.id for named in meaning.named if named.type == "model"}
        if ids != {EVERY} and (len(values) != 1 or ids != {values[0]}):
            return Refusal(Reason.AMBIGUOUS_BODY, f"the header {name} does not name the model of the call")
    return meaning


def _agreeing(place: Place) -> Place:
    read, told = place.read, place.told
    agreed = None if told is None else lambda call, name, version: _agreed(call, told(call, name, version))
    return Place(place.where, lambda call: _agreed(call, read(call)), place.reads, agreed)


def _infer_rest(call: Call) -> Meaning | Refusal:
    meaning = path_meaning(call)
    content = _visible_json(call)
    if content is None:
        return Meaning(meaning.named, _streaming(call))
    named = content.get("model_name")
    if (named is not None and named != meaning.named[0].id) or case_variant(content, _TOP):
        return refuse("names another model than the path")
    return Meaning(meaning.named, {**_tensor_limits(content), **_streaming(call)})


_TOP: Final = frozenset({"model_name", "inputs"})


def _streaming(call: Call) -> Attributes:
    return {"stream": True} if call.row.template.endswith("_stream") else {}


def _visible_json(call: Call) -> dict[str, Any] | None:
    """Return the JSON that describes the tensors, None where we were not shown it whole or it is large."""
    facts = call.facts
    if not facts.body.data:
        return None
    data = whole(facts, call.max_request_bytes)
    if isinstance(data, Refusal):
        return None
    lengths = facts.headers.get(JSON_LENGTH)
    if lengths is not None:
        # Binary tensors follow the JSON (Triton's binary data extension).
        if len(lengths) != 1 or not _LENGTH.match(lengths[0]):
            return None
        data = data[: int(lengths[0])]
    if len(data) > MAX_PARSED:
        return None
    content = json_object(data)
    return None if isinstance(content, Refusal) else content


def _tensor_limits(content: Mapping[str, Any]) -> Attributes:
    """Return `batch_size`, the largest first dimension, where every input's shape is as its data says."""
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or not 0 < len(inputs) <= MAX_TENSORS:
        return {}
    sizes = [_first_dimension(tensor) for tensor in inputs]
    known = [size for size in sizes if size is not None]
    return {"batch_size": max(known)} if len(known) == len(sizes) else {}


def _first_dimension(tensor: object) -> int | None:
    if not isinstance(tensor, dict) or case_variant(tensor, frozenset({"shape", "data"})):
        return None
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not 0 < len(shape) <= MAX_DIMENSIONS:
        return None
    elements = 1
    for dimension in shape:
        # -1 lets NumPy infer: the caller's word for it is no limit.
        if whole_number(dimension) is None:
            return None
        elements *= dimension
    data = tensor.get("data")
    if data is None:
        return shape[0] if tensor.get("datatype") != "BYTES" else None
    # Some codecs ignore the shape and take every element.
    return shape[0] if isinstance(data, list) and _count(data) == elements else None


def _count(data: list[Any]) -> int | None:
    while list in (kinds := set(map(type, data))):
        if len(kinds) > 1:
            return None
        data = list(chain.from_iterable(data))
    return len(data)


def _change_rest(call: Call) -> Meaning | Refusal:
    meaning = path_meaning(call)
    if certainly_empty(call.facts):
        return meaning
    if not call.facts.body.data:
        return _with_parameters(call, meaning)
    data = whole(call.facts, call.max_request_bytes)
    content = data if isinstance(data, Refusal) else json_object(data)
    if isinstance(content, Refusal):
        return content
    if case_variant(content, frozenset({"parameters"})):
        return refuse("names `parameters` in other letters")
    return _with_parameters(call, meaning) if content.get("parameters") else meaning


def _with_parameters(call: Call, meaning: Meaning) -> Meaning:
    """Return what a repository call asks for besides: new code, or that other models go too."""
    first = meaning.named[0]
    if call.row.action == "deploy_model":
        return Meaning((first, first._replace(action="register_model")))
    return Meaning((first, Named("model", EVERY, "", first.action)))


def _change_grpc(call: Call) -> Meaning | Refusal:
    data = grpc_message(call.facts, call.max_request_bytes)
    if isinstance(data, Refusal):
        return data
    try:
        fields = scan(data, FRAME_HEADER, len(data), {2: BYTES, 3: BYTES})
        name = text(data, fields, 2)
    except WireError as error:
        return refuse(f"holds {error}")
    problem = name_problem(name)
    if problem:
        return refuse(problem)
    meaning = Meaning((Named("model", name, "", call.row.action),))
    return _with_parameters(call, meaning) if any(field.number == 3 for field in fields) else meaning  # noqa: PLR2004


def _infer_grpc(call: Call) -> Meaning | Refusal:
    data = grpc_message(call.facts, call.max_request_bytes)
    if isinstance(data, Refusal):
        return data
    try:
        fields = scan(data, FRAME_HEADER, len(data), {1: BYTES, 2: BYTES, 5: BYTES})
        name, version = text(data, fields, 1), text(data, fields, 2)
    except WireError as error:
        return refuse(f"holds {error}")
    problem = name_problem(name) or version_problem(version)
    if problem:
        return refuse(problem)
    return Meaning((Named("model", name, version, call.row.action),), _message_limits(data, fields))


def _message_limits(data: bytes, fields: list[Field]) -> Attributes:
    inputs = [field for field in fields if field.number == 5]  # noqa: PLR2004  InferInputTensor
    if not 0 < len(inputs) <= MAX_TENSORS:
        return {}
    largest = 0
    try:
        for tensor in inputs:
            inner = scan(data, tensor.start, tensor.end, {2: BYTES, 3: BYTES}, MAX_INNER_FIELDS)
            shape = only(inner, 3)
            if shape is None or text(data, inner, 2) == "BYTES":
                return {}
            dimensions = packed(data, shape.start, shape.end, MAX_DIMENSIONS)
            if not dimensions or not all(0 < dimension < 1 << 63 for dimension in dimensions):
                return {}
            largest = max(largest, dimensions[0])
    except WireError:
        return {}
    return {"batch_size": largest}


def _stream(call: Call) -> Meaning:
    attributes: dict[str, AttributeValue] = {"stream": True}
    return Meaning((Named("model", EVERY, "", call.row.action),), attributes)


def _trace(call: Call) -> Meaning | Refusal:
    found = message_fields(call, 2)
    if isinstance(found, Refusal):
        return found
    return Meaning((Named("model", found[0], "", "admin"),)) if found[0] else server_meaning(call)


_INFER = _agreeing(Place("path", _infer_rest, Reads.LIMITS))
_IN_PATH = _agreeing(PATH)
_CHANGE = _agreeing(Place("path; parameters in the body", _change_rest, Reads.MEANING))
_SERVER = _agreeing(SERVER)
_NAMED = _agreeing(message(1, 2))
_STATISTICS = _agreeing(message(1, 2, empty="read_metrics"))
_INFER_MESSAGE = _agreeing(Place("message field 1", _infer_grpc, Reads.MEANING, told_meaning))
_CHANGE_MESSAGE = _agreeing(Place("message field 2; parameters in field 3", _change_grpc, Reads.MEANING))
_TRACE = _agreeing(Place("message field 2 (empty: the server)", _trace, Reads.MEANING))
_STREAM = Place(EVERYTHING.where, _stream)

_LOADS: Final = (("model", "register_model"),)


def _rest() -> tuple[Row, ...]:
    rows = [
        Row("GET", "/v2", "read_metadata", _SERVER, "server"),
        Row("GET", "/v2/health/live", "health", _SERVER, "server"),
        Row("GET", "/v2/health/ready", "health", _SERVER, "server"),
        Row("GET", "/v2/docs", "read_metadata", _SERVER, "server"),
        Row("GET", "/v2/docs/dataplane.json", "read_metadata", _SERVER, "server"),
        Row("GET", "/v2/models", "list_models", _SERVER, "server"),
        Row("GET", "/v2/models/stats", "read_metrics", _SERVER, "server"),
        Row("GET", "/metrics", "read_metrics", _SERVER, "server"),
        Row("GET", "/v2/trace/setting", "read_metadata", _SERVER, "server"),
        Row("POST", "/v2/trace/setting", "admin", _SERVER, "server"),
        Row("GET", "/v2/logging", "read_metadata", _SERVER, "server"),
        Row("POST", "/v2/logging", "admin", _SERVER, "server"),
    ]
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        rows += [
            Row("GET", model, "read_metadata", _IN_PATH),
            Row("GET", f"{model}/ready", "health", _IN_PATH),
            Row("POST", f"{model}/infer", "infer", _INFER),
            Row("POST", f"{model}/infer_stream", "infer", _INFER),
            Row("POST", f"{model}/generate", "generate", _INFER),
            Row("POST", f"{model}/generate_stream", "generate", _INFER),
            Row("GET", f"{model}/docs", "read_metadata", _IN_PATH),
            Row("GET", f"{model}/docs/dataplane.json", "read_metadata", _IN_PATH),
            Row("GET", f"{model}/config", "read_metadata", _IN_PATH),
            Row("GET", f"{model}/stats", "monitor_performance", _IN_PATH),
            Row("GET", f"{model}/trace/setting", "read_metadata", _IN_PATH),
            Row("POST", f"{model}/trace/setting", "admin", _IN_PATH),
        ]
    for repository in ("/v2/repository", "/v2/repository/{repository}"):
        rows += [
            Row("POST", f"{repository}/index", "list_models", _SERVER, "server"),
            Row("POST", f"{repository}/models/{{model}}/load", "deploy_model", _CHANGE, also=_LOADS),
            Row("POST", f"{repository}/models/{{model}}/unload", "undeploy_model", _CHANGE),
        ]
    for kind in ("system", "cuda"):
        for region in ("", "/region/{region}"):
            base = f"/v2/{kind}sharedmemory{region}"
            rows += [
                Row("GET", f"{base}/status", "admin", _SERVER, "server"),
                Row("POST", f"{base}/register", "admin", _SERVER, "server"),
                Row("POST", f"{base}/unregister", "admin", _SERVER, "server"),
            ]
    return tuple(rows)


_REPOSITORY: Final = (
    ("RepositoryIndex", "list_models", _SERVER, "server"),
    ("RepositoryModelLoad", "deploy_model", _CHANGE_MESSAGE, "model"),
    ("RepositoryModelUnload", "undeploy_model", _CHANGE_MESSAGE, "model"),
)
_INFERENCE: Final = (
    ("ServerLive", "health", _SERVER, "server"),
    ("ServerReady", "health", _SERVER, "server"),
    ("ServerMetadata", "read_metadata", _SERVER, "server"),
    ("ModelReady", "health", _NAMED, "model"),
    ("ModelMetadata", "read_metadata", _NAMED, "model"),
    ("ModelConfig", "read_metadata", _NAMED, "model"),
    ("ModelStatistics", "monitor_performance", _STATISTICS, "model"),
    ("ModelInfer", "infer", _INFER_MESSAGE, "model"),
    ("ModelStreamInfer", "infer", _STREAM, "model"),
    ("TraceSetting", "admin", _TRACE, "model"),
    ("LogSettings", "admin", _SERVER, "server"),
    *(
        (f"{kind}SharedMemory{verb}", "admin", _SERVER, "server")
        for kind in ("System", "Cuda")
        for verb in ("Status", "Register", "Unregister")
    ),
)
_ALSO: Final = {
    "RepositoryModelLoad": _LOADS,
    "ModelStatistics": (("server", "read_metrics"),),
    "TraceSetting": (("server", "admin"),),
}
_SERVICES: Final = (
    ("inference.GRPCInferenceService", (*_INFERENCE, *_REPOSITORY)),
    ("inference.model_repository.ModelRepositoryService", _REPOSITORY),
    ("org.pytorch.serve.grpc.openinference.GRPCInferenceService", _INFERENCE),
)

ADAPTER: Final = Adapter(
    "open-inference",
    (
        *_rest(),
        *(
            Row(GRPC, f"/{service}/{method}", action, place, kind, _ALSO.get(method, ()))
            for service, methods in _SERVICES
            for method, action, place, kind in methods
        ),
        *grpc_common.ROWS,
    ),
    error_shape="open-inference",
    header_names=(*_ROUTING, JSON_LENGTH),
)
