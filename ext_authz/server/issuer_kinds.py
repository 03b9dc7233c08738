"""How each kind of issuer is asked what a token is: OAuth 2.0 introspection, Kubernetes TokenReview.

Law: the answer is claims, None (not active), or an IssuerError; nothing half-read counts. TLS is always verified,
answers are bounded in time and size. Non-goal: what the claims grant (authn.asked), limits and caching.
"""

import base64
import ssl
from collections.abc import Container, Mapping
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import orjson

from ext_authz.authn.asked import MAX_ANSWER_BYTES, AnySettings
from ext_authz.authn.asked_settings import IntrospectionSettings, TokenReviewSettings
from ext_authz.authn.jws import JwsError, parse_compact, strict_json
from ext_authz.server.fetching import Ask, FetchError, fetch

REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_VERSION: Final = "authentication.k8s.io/v1"
_CREDENTIAL: Final = "authentication.kubernetes.io/credential-id"
_MAX_TOKEN_FILE: Final = 64 * 1024

Claims = dict[str, Any]


class IssuerError(Exception):
    """The issuer could not be asked, or did not answer as it should; the message is for operators.

    `answered`: it works, and what was wrong may be this one token, which whoever sends it chose.
    """

    def __init__(self, message: str, *, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


def ask(settings: AnySettings, token: str) -> Claims | None:
    """Return what the issuer says of `token`, None where that is "not active". Raises IssuerError."""
    try:
        if isinstance(settings, IntrospectionSettings):
            return _introspected(settings, token)
        return _reviewed(settings, token)
    except FetchError as error:
        raise IssuerError(str(error), answered=error.answered) from None
    except (JwsError, OSError, ValueError) as error:
        raise IssuerError(str(error)) from None


def _post(settings: AnySettings, url: str, body: bytes, headers: Mapping[str, str], accepted: Container[int]) -> Claims:
    own = settings.ca_file if url.startswith("https:") else None
    context = None if own is None else ssl.create_default_context(cafile=own)
    asked = Ask(max_bytes=MAX_ANSWER_BYTES, headers=headers, body=body, accepted=accepted)
    return strict_json(fetch(url, seconds=settings.time_limit, context=context, ask=asked).body, "the answer")


def _introspected(settings: IntrospectionSettings, token: str) -> Claims | None:
    """RFC 7662 2.1 and 2.2."""
    # RFC 6749 2.3.1: both are form-encoded before they are joined.
    pair = f"{quote_plus(settings.client_id)}:{quote_plus(settings.client_secret.get_secret_value())}"
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "authorization": f"Basic {base64.b64encode(pair.encode()).decode()}",
    }
    body = urlencode({"token": token, "token_type_hint": "access_token"}).encode()
    answer = _post(settings, settings.url, body, headers, (200,))
    active = answer.pop("active", None)
    if not isinstance(active, bool):
        raise IssuerError("the answer has no `active` that is true or false")
    return answer if active else None


def _reviewed(settings: TokenReviewSettings, token: str) -> Claims | None:
    """Kubernetes API reference, TokenReview v1."""
    with settings.token_file.open("rb") as file:
        own = file.read(_MAX_TOKEN_FILE).decode("ascii").strip()
    if not own or not own.isprintable() or " " in own:
        raise IssuerError(f"`{settings.token_file}` holds no token")
    spec = {"token": token, "audiences": list(settings.audiences)}
    review = {"apiVersion": _VERSION, "kind": "TokenReview", "spec": spec}
    headers = {"content-type": "application/json", "authorization": f"Bearer {own}"}
    url = settings.url.rstrip("/") + REVIEWS
    answer = _post(settings, url, orjson.dumps(review), headers, (200, 201))
    status = answer.get("status")
    if not isinstance(status, dict) or answer.get("kind") != "TokenReview":
        raise IssuerError("the answer is no TokenReview")
    if status.get("authenticated") is not True:
        return None
    user = status.get("user")
    if not isinstance(user, dict):
        raise IssuerError("the answer names no user")
    # Without audiences an authenticator has not looked at them: the token is for the API server itself.
    claims: Claims = {"sub": user.get("username"), "aud": status.get("audiences") or []}
    claims |= {name: user[name] for name in ("uid", "groups", "extra") if name in user}
    extra = user.get("extra")
    named = extra.get(_CREDENTIAL) if isinstance(extra, dict) else None
    if isinstance(named, list) and len(named) == 1 and isinstance(named[0], str):
        claims["jti"] = named[0].removeprefix("JTI=")
    return claims | _dates(token)


def _dates(token: str) -> Claims:
    """Return the dates in a service account's token; the cluster that signed it has just vouched for it."""
    try:
        payload = strict_json(parse_compact(token).payload, "the payload")
    except JwsError:
        return {}
    return {name: payload[name] for name in ("iat", "exp", "nbf") if name in payload}
