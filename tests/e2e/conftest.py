"""One running world per transport and test process."""

from collections.abc import Iterator

import pytest
from envoy_process import Edge, running

TRANSPORTS = ("grpcio", "native")


@pytest.fixture(scope="session", params=TRANSPORTS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Edge, Edge]]:
    with running(tmp_path_factory.mktemp(request.param), request.param, timeout="1s") as edges:
        yield edges


@pytest.fixture
def edge(world: tuple[Edge, Edge]) -> Edge:
    """The Envoy whose configuration we generate."""
    world[0].clear()
    return world[0]


@pytest.fixture(params=["removed early", "kept by Envoy"])
def any_edge(request: pytest.FixtureRequest, world: tuple[Edge, Edge]) -> Edge:
    """Each Envoy in turn; the second leaves forged headers to the sidecar."""
    found = world[request.param == "kept by Envoy"]
    found.clear()
    return found
