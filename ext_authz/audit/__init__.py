"""The audit trail: every decision on record before its answer leaves, delivered to sinks afterwards.

Law: the trail is the spool; sinks only follow it. Reading order: decision.py,
appending.py, spool.py, committer.py on the check's side; exporter.py, sinks/, reader.py behind it.
"""
