"""The `awskms:` provider: a symmetric key of AWS KMS.

Law: as for every provider; the context is the KMS encryption context, so it stands in CloudTrail. The key that opens is
the one the user named, never the one a file names. Credentials and region are boto3's usual ones.
"""

from typing import Any, Final

from ext_authz.envelope.errors import AlteredError, KeyUnavailableError
from ext_authz.envelope.keys import Context, WrappedKey

_TIMEOUT: Final = 10
_ATTEMPTS: Final = 3
_ARN_REGION: Final = 3


class KmsKey:
    """One KMS key; KMS keeps its versions to itself."""

    def __init__(self, client: Any, key: str) -> None:  # noqa: ANN401  boto3 has no types
        self.client = client
        self.key = key

    @classmethod
    def connect(cls, key: str) -> "KmsKey":
        """Prepare the client for a key id, an alias or an ARN (whose region is used). Raises KeyUnavailableError."""
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise KeyUnavailableError("`awskms:` needs the extra `aws`: `pip install 'ext-authz[aws]'`") from None
        region = key.split(":")[_ARN_REGION] if key.startswith("arn:") else None
        retries = {"mode": "standard", "max_attempts": _ATTEMPTS}
        config = Config(connect_timeout=_TIMEOUT, read_timeout=_TIMEOUT, retries=retries)
        try:
            return cls(boto3.client("kms", region_name=region, config=config), key)
        except (BotoCoreError, ValueError) as error:
            raise KeyUnavailableError(f"`awskms:{key}`: {_one_line(error)}") from None

    def wrap(self, data_key: bytes, context: Context) -> WrappedKey:
        """As the port says."""
        answer = self._ask("encrypt", Plaintext=data_key, EncryptionContext=dict(context))
        return WrappedKey("awskms", str(answer["KeyId"]), "", bytes(answer["CiphertextBlob"]))

    def unwrap(self, wrapped: WrappedKey, context: Context) -> bytes:
        """As the port says."""
        if wrapped.provider != "awskms":
            raise KeyUnavailableError(f"wrapped by `{wrapped}`, and the key given is `awskms:{self.key}`")
        try:
            answer = self._ask("decrypt", CiphertextBlob=wrapped.blob, EncryptionContext=dict(context))
        except _IncorrectKeyError:
            raise KeyUnavailableError(f"wrapped by `{wrapped}`, and the key given is `awskms:{self.key}`") from None
        return bytes(answer["Plaintext"])

    def _ask(self, method: str, **parameters: object) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer: dict[str, Any] = getattr(self.client, method)(KeyId=self.key, **parameters)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code == "InvalidCiphertextException":
                raise AlteredError("the wrapped data key was altered, or belongs to another data id or type") from None
            if code == "IncorrectKeyException":
                raise _IncorrectKeyError from None
            raise KeyUnavailableError(f"`awskms:{self.key}`: {_one_line(error)}") from None
        except BotoCoreError as error:
            raise KeyUnavailableError(f"`awskms:{self.key}`: {_one_line(error)}") from None
        return answer


class _IncorrectKeyError(Exception):
    """KMS: another key made this ciphertext."""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
