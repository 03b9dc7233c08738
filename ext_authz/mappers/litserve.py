"""LitServe's own paths: `/predict` and what every LitServe has.

Law: a server has one model at one path, which has the route's name. Non-goal: its OpenAI-compatible
specifications (`openai`), and paths that a server chose itself (plain routes).
"""

from typing import Final

from ext_authz.mappers.adapter import Adapter, Row
from ext_authz.mappers.places import ROUTE, SERVER

ADAPTER: Final = Adapter(
    "litserve",
    (
        Row("POST", "/predict", "infer", ROUTE),
        Row("GET", "/", "health", SERVER, "server"),
        Row("GET", "/health", "health", SERVER, "server"),
        *(
            Row("GET", path, "read_metadata", SERVER, "server")
            for path in ("/info", "/docs", "/redoc", "/openapi.json")
        ),
        Row("POST", "/shutdown", "admin", SERVER, "server"),
    ),
)
