"""Why an envelope is not opened: the two kinds that a caller must tell apart.

Law: what the bytes say is `AlteredError`, what the surroundings say is `KeyUnavailableError`.
"""


class EnvelopeError(Exception):
    """An envelope cannot be made or opened; the text is one line for the user and holds no secret."""


class AlteredError(EnvelopeError):
    """The bytes are not what was sealed under this name: altered, cut, mixed up, or another data id or type."""


class KeyUnavailableError(EnvelopeError):
    """The key is not there, not allowed, not the one that wrapped this, or its holder does not answer."""


class UnsupportedError(EnvelopeError):
    """A version or algorithm that this program does not know, or a size that the format cannot hold."""
