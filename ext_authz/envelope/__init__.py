"""AES-256-GCM envelope encryption: a fresh data key per file, wrapped by a key that a provider holds.

Law: no byte leaves that was not authenticated, under the name (type and id) it was sealed with.
docs/encryption.md has the format to the byte.
"""
