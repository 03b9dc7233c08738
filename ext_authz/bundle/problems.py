"""Why a bundle is not believed: one closed list, which is metric label, event field and heading in the docs."""

from enum import StrEnum


class Problem(StrEnum):
    """What is wrong with a bundle."""

    UNREACHABLE = "unreachable"  # no answer, or not the answer of a server that has the bundle
    TOO_LARGE = "too_large"  # compressed, unpacked, manifest or signatures beyond their limits
    DAMAGED = "damaged"  # not a gzip stream of a whole tar archive in the form of docs/bundles.md
    FORBIDDEN_ENTRY = "forbidden_entry"  # a link, device, pipe, folder or extended header
    BAD_PATH = "bad_path"  # absolute, `..`, hidden, too long, two names that differ by case alone, …
    DUPLICATE_FILE = "duplicate_file"  # one name twice
    TOO_MANY_FILES = "too_many_files"
    UNSIGNED = "unsigned"  # no signature at all
    UNTRUSTED_KEY = "untrusted_key"  # signed by none of the configured keys
    BAD_SIGNATURE = "bad_signature"  # a configured key's signature does not fit the manifest
    BAD_MANIFEST = "bad_manifest"  # signed, but not a manifest that this version understands
    OTHER_NAME = "other_name"  # signed for others
    ROLLBACK = "rollback"  # older than one that was believed before
    EQUIVOCATION = "equivocation"  # two different bundles with one revision
    EXPIRED = "expired"  # its time is over
    UNLISTED_FILE = "unlisted_file"  # a file that the manifest does not name
    MISSING_FILE = "missing_file"  # a file that the manifest names is not there
    WRONG_SIZE = "wrong_size"
    WRONG_DIGEST = "wrong_digest"
    DOES_NOT_LOAD = "does_not_load"  # it is whole and signed, and its policies or resources have mistakes
    NOT_KEPT = "not_kept"  # the disk does not take it, or what was believed before cannot be read


class BundleError(Exception):
    """A bundle that is not believed; `problem` says why in one word, the text in one sentence."""

    def __init__(self, problem: Problem, message: str) -> None:
        super().__init__(message)
        self.problem = problem
