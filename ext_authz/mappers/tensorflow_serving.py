"""TensorFlow Serving, REST and gRPC.

Law: REST paths by the server's own pattern (a query is part of its path, a
name holds no `:`), gRPC by `model_spec`, each level exactly once; every model
of a MultiInference or reload counts. Non-goal: signatures.
"""

from typing import Final, NamedTuple

from ext_authz.mappers import grpc_common
from ext_authz.mappers.adapter import EVERY, GRPC, Adapter, Call, Meaning, Named, Place, Reads, Row
from ext_authz.mappers.body import FRAME_HEADER, grpc_message, refuse
from ext_authz.mappers.limits import instances
from ext_authz.mappers.places import EVERYTHING, SERVER, name_problem, path_meaning, told_meaning, visible_json
from ext_authz.mappers.wire import BYTES, MAX_FIELDS, MAX_INNER_FIELDS, VARINT, Field, WireError, only, scan, text
from ext_authz.model import Reason, Refusal

MAX_MODELS: Final = 64
_LABEL: Final = "label:"


class _Spec(NamedTuple):
    name: str
    version: str


def _spec(data: bytes, start: int, end: int) -> _Spec:
    """Read a ModelSpec: name 1, oneof (version 2: Int64Value {value 1}; version_label 4)."""
    fields = scan(data, start, end, {1: BYTES, 2: BYTES, 4: BYTES}, MAX_INNER_FIELDS)
    name, number, label = text(data, fields, 1), only(fields, 2), text(data, fields, 4)
    problem = name_problem(name)
    if problem:
        raise WireError(f"a model_spec that {problem}")
    if number is None:
        return _Spec(name, _LABEL + label if label else "")
    if only(fields, 4) is not None:
        raise WireError("a version and a version label")
    value = only(scan(data, number.start, number.end, {1: VARINT}, MAX_INNER_FIELDS), 1)
    version = 0 if value is None else value.start
    if version >> 63:
        raise WireError("a negative version")
    return _Spec(name, str(version))


def _inner(data: bytes, outer: Field, what: str, limit: int = MAX_FIELDS) -> Field:
    """Return the only field 1 of a message."""
    field = only(scan(data, outer.start, outer.end, {1: BYTES}, limit), 1)
    if field is None:
        raise WireError(f"no {what}")
    return field


def _configured(data: bytes) -> list[str]:
    """Return the names in a ReloadConfigRequest: config 1 -> model_config_list 1 -> config 1 (each) -> name 1."""
    config = _inner(data, _message(data), "config")
    if scan(data, config.start, config.end, {2: BYTES}):
        raise WireError("a custom configuration")
    listed = _inner(data, config, "model_config_list")
    models = scan(data, listed.start, listed.end, {1: BYTES})[: MAX_MODELS + 1]
    return [text(data, scan(data, model.start, model.end, {1: BYTES}, MAX_INNER_FIELDS), 1) for model in models]


def _message(data: bytes) -> Field:
    return Field(0, FRAME_HEADER, len(data))


def _one(call: Call) -> Meaning | Refusal:
    data = grpc_message(call.facts, call.max_request_bytes)
    if isinstance(data, Refusal):
        return data
    try:
        field = _inner(data, _message(data), "model_spec")
        spec = _spec(data, field.start, field.end)
    except WireError as error:
        return refuse(f"holds {error}")
    return Meaning((Named("model", spec.name, spec.version, call.row.action),))


def _tasks(call: Call) -> Meaning | Refusal:
    data = grpc_message(call.facts, call.max_request_bytes)
    if isinstance(data, Refusal):
        return data
    specs: list[_Spec] = []
    try:
        tasks = scan(data, FRAME_HEADER, len(data), {1: BYTES})
        for task in tasks[: MAX_MODELS + 1]:
            field = _inner(data, task, "model_spec", MAX_INNER_FIELDS)
            specs.append(_spec(data, field.start, field.end))
    except WireError as error:
        return refuse(f"holds {error}")
    if not 0 < len(specs) <= MAX_MODELS:
        return refuse("names no model, or too many")
    return Meaning(tuple(Named("model", spec.name, spec.version, call.row.action) for spec in dict.fromkeys(specs)))


def _reload(call: Call) -> Meaning | Refusal:
    """Return that the listed models are deployed, from paths the caller chooses, and that any other may go."""
    data = grpc_message(call.facts, call.max_request_bytes)
    if isinstance(data, Refusal):
        return data
    try:
        names = _configured(data)
    except WireError as error:
        return refuse(f"holds {error}")
    if len(names) > MAX_MODELS or any(name_problem(name) for name in names):
        return refuse("names no model, or too many")
    named = [
        Named("model", name, "", action)
        for name in dict.fromkeys(names)
        for action in ("deploy_model", "register_model")
    ]
    return Meaning((*named, Named("model", EVERY, "", "undeploy_model")))


def _rest(call: Call) -> Meaning | Refusal:
    if call.query or ":" in call.captured.get("model", ""):
        return Refusal(Reason.NO_ROUTE, "TensorFlow Serving would read another path")
    if "label" in call.captured:
        name, label = call.captured["model"], call.captured["label"]
        meaning = Meaning((Named("model", name, _LABEL + label, call.row.action),))
    else:
        meaning = path_meaning(call)
    content = visible_json(call) if call.facts.method == "POST" else None
    return meaning if content is None else Meaning(meaning.named, instances(content))


_PATH = Place("path", _rest, Reads.LIMITS)
_ONE = Place("message field 1 `model_spec`", _one, Reads.MEANING, told_meaning)
_TASKS = Place("message field 1 (each) `model_spec`", _tasks, Reads.MEANING)
_RELOAD = Place("every model of the configuration, and any (`*`)", _reload, Reads.MEANING)
_CHANGES: Final = (("model", "register_model"), ("model", "undeploy_model"))


def _rest_rows() -> list[Row]:
    rows = [
        Row("GET", "/v1/models", "list_models", SERVER, "server"),
        Row("GET", "/monitoring/prometheus/metrics", "read_metrics", SERVER, "server"),
    ]
    for model in ("/v1/models/{model}", "/v1/models/{model}/versions/{version}", "/v1/models/{model}/labels/{label}"):
        rows += [Row("POST", f"{model}:{verb}", "infer", _PATH) for verb in ("predict", "classify", "regress")]
        rows += [Row("GET", model, "health", _PATH), Row("GET", f"{model}/metadata", "read_metadata", _PATH)]
    return rows


_SERVICE: Final = "/tensorflow.serving."

ADAPTER: Final = Adapter(
    "tensorflow-serving",
    (
        *_rest_rows(),
        Row(GRPC, f"{_SERVICE}PredictionService/Predict", "infer", _ONE),
        Row(GRPC, f"{_SERVICE}PredictionService/PredictStreamed", "infer", EVERYTHING),
        Row(GRPC, f"{_SERVICE}PredictionService/Classify", "infer", _ONE),
        Row(GRPC, f"{_SERVICE}PredictionService/Regress", "infer", _ONE),
        Row(GRPC, f"{_SERVICE}PredictionService/GetModelMetadata", "read_metadata", _ONE),
        Row(GRPC, f"{_SERVICE}PredictionService/MultiInference", "infer", _TASKS),
        Row(GRPC, f"{_SERVICE}SessionService/SessionRun", "infer", _ONE),
        Row(GRPC, f"{_SERVICE}ModelService/GetModelStatus", "health", _ONE),
        Row(GRPC, f"{_SERVICE}ModelService/HandleReloadConfigRequest", "deploy_model", _RELOAD, also=_CHANGES),
        *grpc_common.ROWS,
    ),
    error_shape="tensorflow-serving",
)
