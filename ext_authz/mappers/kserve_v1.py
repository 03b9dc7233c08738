"""KServe's V1 data plane (HTTP).

Law: the model is all before the last `:` of its segment, as KServe's router
reads it; the body never names one. Non-goal: KServe's V2 (open-inference) and OpenAI paths (openai, mounted).
"""

from typing import Final

from ext_authz.mappers.adapter import Adapter, Call, Meaning, Place, Reads, Row
from ext_authz.mappers.limits import instances
from ext_authz.mappers.places import PATH, SERVER, json_key, path_meaning, visible_json


def _predict(call: Call) -> Meaning:
    content = visible_json(call)
    meaning = path_meaning(call)
    return meaning if content is None else Meaning(meaning.named, instances(content))


_PREDICT = Place("path", _predict, Reads.LIMITS)

ADAPTER: Final = Adapter(
    "kserve-v1",
    (
        Row("GET", "/", "health", SERVER, "server"),
        Row("GET", "/metrics", "read_metrics", SERVER, "server"),
        Row("GET", "/v1/models", "list_models", SERVER, "server"),
        Row("GET", "/v1/models/{model}", "health", PATH),
        Row("POST", "/v1/models/{model}:predict", "infer", _PREDICT),
        Row("POST", "/v1/models/{model}:explain", "explain", _PREDICT),
        Row("POST", "/v1/timeseries/forecast", "infer", json_key("model")),
        Row("GET", "/v1/timeseries/models", "list_models", SERVER, "server"),
    ),
    error_shape="kserve-v1",
)
