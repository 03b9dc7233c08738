"""The running sidecar: supervisor, workers (data plane) and the control process (control plane)."""
