"""Every protocol a route may name. Adding one is its file and its line here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ext_authz.mappers import open_inference
from ext_authz.mappers.adapter import Adapter

ADAPTERS: Final[tuple[Adapter, ...]] = (open_inference.ADAPTER,)
PROTOCOLS: Final[Mapping[str, Adapter]] = MappingProxyType({adapter.name: adapter for adapter in ADAPTERS})
