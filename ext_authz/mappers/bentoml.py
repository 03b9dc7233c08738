"""BentoML services: one path for each API, tasks, and the gRPC service.

Law: the API's name in the path (in gRPC: field 1) is the model; one service
at one mount. Non-goal: what APIs take.
"""

from typing import Final

from ext_authz.mappers import grpc_common
from ext_authz.mappers.adapter import GRPC, Adapter, Row
from ext_authz.mappers.places import PATH, SERVER, message

_SERVICE: Final = "/bentoml.grpc.v1.BentoService/"

ADAPTER: Final = Adapter(
    "bentoml",
    (
        *(Row("GET", path, "health", SERVER, "server") for path in ("/livez", "/healthz", "/readyz")),
        *(Row("GET", path, "read_metadata", SERVER, "server") for path in ("/", "/docs.json", "/schema.json")),
        Row("GET", "/static_content/{path**}", "read_metadata", SERVER, "server"),
        Row("GET", "/metrics", "read_metrics", SERVER, "server"),
        Row("POST", "/{model}", "infer", PATH),
        Row("POST", "/{model}/submit", "infer", PATH),
        Row("POST", "/{model}/retry", "infer", PATH),
        Row("PUT", "/{model}/cancel", "cancel_job", PATH),
        Row("GET", "/{model}/status", "read_job", PATH),
        Row("GET", "/{model}/get", "read_job", PATH),
        Row(GRPC, f"{_SERVICE}Call", "infer", message(1)),
        Row(GRPC, f"{_SERVICE}ServiceMetadata", "read_metadata", SERVER, "server"),
        *grpc_common.ROWS,
    ),
)
