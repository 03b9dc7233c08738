"""Every protocol a route may name. Adding one is its file and its line here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ext_authz.mappers import (
    anthropic,
    kserve_v1,
    mlflow,
    ollama,
    open_inference,
    openai,
    tensorflow_serving,
    torchserve,
)
from ext_authz.mappers.adapter import Adapter

ADAPTERS: Final[tuple[Adapter, ...]] = (
    open_inference.ADAPTER,
    kserve_v1.ADAPTER,
    tensorflow_serving.ADAPTER,
    torchserve.ADAPTER,
    openai.ADAPTER,
    anthropic.ADAPTER,
    ollama.ADAPTER,
    mlflow.ADAPTER,
)
PROTOCOLS: Final[Mapping[str, Adapter]] = MappingProxyType({adapter.name: adapter for adapter in ADAPTERS})
NOT_YET: Final = frozenset({"ray", "sagemaker", "s3", "feast", "kubernetes", "seldon", "bentoml"})
"""Protocols that the plan names and this version does not have."""
