"""Hosted models whose path names them: Google's Gemini API and Amazon Bedrock's runtime.

Law: the path decides, so bodies of any size pass unread. Non-goal: what else those clouds serve.
"""

from typing import Final

from ext_authz.mappers.adapter import Adapter, Row
from ext_authz.mappers.places import PATH, SERVER

_MODEL: Final = "/v1beta/models/{model}"

GEMINI: Final = Adapter(
    "gemini",
    (
        Row("GET", "/v1beta/models", "list_models", SERVER, "server"),
        Row("GET", _MODEL, "read_metadata", PATH),
        *(Row("POST", f"{_MODEL}:{verb}", "generate", PATH) for verb in ("generateContent", "streamGenerateContent")),
        *(Row("POST", f"{_MODEL}:{verb}", "embed", PATH) for verb in ("embedContent", "batchEmbedContents")),
        Row("POST", f"{_MODEL}:countTokens", "tokenize", PATH),
    ),
    aliases={"/v1beta/": ("/v1/",)},
)
BEDROCK: Final = Adapter(
    "bedrock",
    (
        *(
            Row("POST", f"/model/{{model}}/{verb}", "generate", PATH)
            for verb in ("invoke", "invoke-with-response-stream", "converse", "converse-stream")
        ),
        Row("POST", "/model/{model}/count-tokens", "tokenize", PATH),
    ),
)
