"""The Envoy of docker-compose.yml, and what the end-to-end tests run in other places.

Law: envoy/compose/envoy.yaml is `generate(COMPOSE)`; a test holds them
together. Non-goal: running containers.
"""

from dataclasses import replace
from typing import Final

from ext_authz.envoy_config.settings import DATA_LAKE, MODEL_SERVER, EnvoySettings, Listener

COMPOSE: Final = EnvoySettings(
    listeners=(
        Listener(address="0.0.0.0:8443"),
        Listener(name="tokens", address="0.0.0.0:8444", require_client_certificate=False),
    ),
    upstreams=(
        replace(MODEL_SERVER, http=("models:8080",), grpc=("models:8081",)),
        replace(DATA_LAKE, http=("lake:8090",)),
    ),
    authz=("unix:/run/ext-authz/0.sock", "unix:/run/ext-authz/1.sock"),
    admin="unix:/tmp/admin.sock",
    certificate="/certs/server.pem",
    private_key="/certs/server.key",
    client_ca="/certs/ca.pem",
)
