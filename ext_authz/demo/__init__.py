"""The main job on this machine: a real model server, this sidecar and a real Envoy, called by real clients."""
