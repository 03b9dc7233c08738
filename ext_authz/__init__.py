"""A zero-trust authorization sidecar for ML platforms behind Envoy's ext_authz filter."""

__version__ = "0.1.0"
