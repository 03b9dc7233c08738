"""Watching the stream of audit events (docs/monitoring.md); imported only where `monitor:` is configured."""
