"""Every protocol a route may name. Adding one is its file and its line here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ext_authz.mappers import (
    anthropic,
    bentoml,
    feast,
    hosted,
    kserve_v1,
    kubernetes,
    litserve,
    llama_cpp,
    mlflow,
    ollama,
    open_inference,
    openai,
    ray,
    s3,
    sagemaker,
    seldon,
    tensorflow_serving,
    tgi,
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
    ray.ADAPTER,
    sagemaker.ADAPTER,
    s3.ADAPTER,
    s3.VIRTUAL_HOST,
    feast.ADAPTER,
    kubernetes.ADAPTER,
    kubernetes.PIPELINES,
    seldon.ADAPTER,
    bentoml.ADAPTER,
    litserve.ADAPTER,
    llama_cpp.ADAPTER,
    tgi.ADAPTER,
    hosted.GEMINI,
    hosted.BEDROCK,
)
PROTOCOLS: Final[Mapping[str, Adapter]] = MappingProxyType({adapter.name: adapter for adapter in ADAPTERS})
