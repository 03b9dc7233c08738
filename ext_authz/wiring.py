"""Inputs to a Snapshot: the one module that names every concrete kind.

Law: pure over its inputs (every file was read before), so every process builds
the same; whatever is wrong with a key, bundle, route or policy is a DocumentError
with all of it. Non-goal: deciding when to build.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path as FilePath
from typing import Final, TypeVar

from ext_authz import config
from ext_authz.audit.boot import record_start
from ext_authz.audit.spool import Limits, Spool
from ext_authz.audit.trail_keys import TrailKeys
from ext_authz.authn import Chain
from ext_authz.authn.api_key import ApiKeyAuthenticator
from ext_authz.authn.api_key_file import read_keys
from ext_authz.authn.asked import AskedTokens
from ext_authz.authn.assertion import AssertionSigner, conflicts
from ext_authz.authn.jwks import KeySet, KeySetError, from_jwks, from_secret
from ext_authz.authn.jwt import JwtAuthenticator, JwtIssuer
from ext_authz.authn.lasting import Lasting
from ext_authz.authn.mtls import MtlsAuthenticator
from ext_authz.authn.remote import NO_KEYS, NOTHING_FETCHED, Fetched
from ext_authz.authn.roles import RoleBindings
from ext_authz.authn.signing import (
    SigningKey,
    SigningKeyError,
    load_public_key,
    load_signing_key,
    public_jwks,
    verification_keys,
)
from ext_authz.authn.tokens import own_issuer
from ext_authz.authn.trust import TrustError, TrustStore
from ext_authz.check import Snapshot
from ext_authz.config import Inputs
from ext_authz.config.listeners import listener_mistakes
from ext_authz.context import Network, client_address
from ext_authz.documents import Diagnostic, DocumentError, Path, mark_at
from ext_authz.headers import Assertion, HeaderPlan, known_variable
from ext_authz.mappers.catalog import Catalog
from ext_authz.mappers.routes import RouteTable, load_resources
from ext_authz.policy.compiler import compile_policies
from ext_authz.policy.document import PolicyDocument
from ext_authz.policy.engine import PolicySet
from ext_authz.policy.schema import undump
from ext_authz.template import Template, TemplateError, compile_template

_Made = TypeVar("_Made")
_UNUSABLE: Final = (KeySetError, SigningKeyError, TrustError, ValueError)


def build(inputs: Inputs, fetched: Fetched = NOTHING_FETCHED, lasting: Lasting | None = None) -> Snapshot:
    """Build the snapshot of inputs that loaded without a mistake, with the keys fetched so far.

    `lasting` is what this snapshot shares with those before and after it.

    Raises DocumentError with everything that is wrong beyond reading.
    """
    builder = _Builder(inputs, lasting=lasting)
    snapshot = builder.snapshot()
    if builder.mistakes:
        raise DocumentError(builder.mistakes, inputs.texts())
    return with_keys(snapshot, fetched)


def with_keys(snapshot: Snapshot, fetched: Fetched) -> Snapshot:
    """Return the snapshot with these fetched keys; all else, the revision too, stays."""
    chain = snapshot.authenticators
    tokens = None if chain.jwt is None else chain.jwt.with_fetched(fetched)
    if tokens is None or tokens is chain.jwt:
        return snapshot
    return replace(snapshot, authenticators=chain.with_tokens(tokens))


def key_sets(snapshot: Snapshot) -> Mapping[str, KeySet]:
    """Return the key sets in force by issuer."""
    chain = snapshot.authenticators
    return {} if chain.jwt is None else {name: each.keys for name, each in chain.jwt.issuers.items()}


def load(path: FilePath, environ: Mapping[str, str]) -> tuple[Inputs, Snapshot]:
    """Read and build in one go, with the keys that a server of this run_dir fetched and keeps.

    Raises DocumentError with the mistakes of both at once.
    """
    return finished(config.read_inputs(path, environ))


def finished(draft: config.Draft) -> tuple[Inputs, Snapshot]:
    """Return inputs and snapshot of what was read, as load does. Raises DocumentError."""
    snapshot, mistakes = attempt(draft)
    if mistakes or draft.inputs is None or snapshot is None:
        raise DocumentError(mistakes, draft.texts)
    return draft.inputs, with_keys(snapshot, config.kept_keys(draft.inputs.settings.run_dir))


def attempt(draft: config.Draft) -> tuple[Snapshot | None, tuple[Diagnostic, ...]]:
    """Build from what could be read; return the snapshot (None where there is a mistake) and every mistake once."""
    if draft.inputs is None:
        return None, draft.mistakes
    builder = _Builder(draft.inputs, whole=not draft.mistakes)
    snapshot = builder.snapshot()
    places = {each.mark for each in draft.mistakes}
    mistakes = (*draft.mistakes, *(each for each in builder.mistakes if each.mark is None or each.mark not in places))
    return (None if mistakes else snapshot), mistakes


def published_keys(inputs: Inputs) -> bytes:
    """Return the JWK set (RFC 7517) that verifies tokens minted and assertions made here. Raises DocumentError."""
    builder = _Builder(inputs)
    own, assertion = builder.own_tokens(), builder.assertion_keys()
    if builder.mistakes:
        raise DocumentError(builder.mistakes, inputs.texts())
    sets = [own.keys] if own is not None else []
    return public_jwks(sets if assertion is None else [*sets, assertion[1]])


def signing_key(inputs: Inputs) -> SigningKey:
    """Return the key of `tokens.private_key`. Raises DocumentError when it is no key to sign with."""
    builder = _Builder(inputs)
    key = builder.token_key()
    if key is None:
        raise DocumentError(builder.mistakes, inputs.texts())
    return key


def trail_keys(inputs: Inputs, environ: Mapping[str, str]) -> TrailKeys:
    """Return which keys the audit trail has."""
    settings = inputs.settings
    return TrailKeys(settings.audit, FilePath(inputs.file).parent, settings.run_dir, environ)


def open_spool(inputs: Inputs, name: str, keys: TrailKeys) -> Spool:
    """Begin the log of the process `name`. Raises AuditUnavailable, KeyUnavailableError."""
    spool = inputs.settings.audit.spool
    limits = Limits(spool.max_bytes, spool.segment_bytes, float(spool.segment_age), drop=spool.on_full == "drop")
    directory = inputs.settings.run_dir / "audit"
    made = Spool.create(directory, name, keys=keys.open(), signer=keys.signer(), limits=limits)
    record_start(made, name, keys.open)
    return made


class _Builder:
    """Opens one resource after the other; what cannot be opened is a mistake and stands as nothing."""

    def __init__(self, inputs: Inputs, *, whole: bool = True, lasting: Lasting | None = None) -> None:
        # Not whole: what is wrong between the parts was reported with the configuration.
        self.whole = whole
        self.lasting = lasting or Lasting()
        self.inputs = inputs
        self.settings = inputs.settings
        self.mistakes: list[Diagnostic] = []

    def snapshot(self) -> Snapshot:
        """Build everything; only to be used where no mistake was found."""
        self.mistakes += listener_mistakes(self.inputs)
        chain = self._chain()
        policies = self._policies()
        return Snapshot(
            revision=self.inputs.revision,
            authenticators=chain,
            routes=self._routes(),
            policies=policies,
            headers=self._headers(chain, policies),
            trusted_proxies=self._proxy_networks(),
        )

    def _open(self, place: Path, path: FilePath, make: Callable[[bytes], _Made]) -> _Made | None:
        """Make something of a file named at `place`; one that could not be read is a mistake already."""
        data = self.inputs.files.get(str(path))
        if data is None:
            return None
        try:
            return make(data)
        except DocumentError as error:
            self.mistakes += error.diagnostics
        except _UNUSABLE as error:
            for each in getattr(error, "mistakes", (str(error),)):
                self._mistake(place, f"`{path}`: {each}")
        return None

    def _mistake(self, place: Path, message: str) -> None:
        self.mistakes.append(Diagnostic(mark_at(self.inputs.node, place), message))

    def _chain(self) -> Chain:
        identity = self.settings.identity
        return Chain(
            self._mtls(),
            self._jwt(),
            self._api_keys(),
            RoleBindings(identity.role_bindings),
            identity.unsafe_anonymous,
            address_of=partial(client_address, trusted_proxies=self._proxy_networks()),
            once=self.lasting.once,
            asked=self._asked(),
        )

    def _proxy_networks(self) -> tuple[Network, ...]:
        return tuple(each for each in self.settings.server.trusted_proxies if not isinstance(each, str))

    def _mtls(self) -> MtlsAuthenticator | None:
        settings = self.settings.identity.mtls
        if settings is None:
            return None
        peers = [each for each in self.settings.server.trusted_proxies if isinstance(each, str)]
        if settings.ca_bundle is None:
            return MtlsAuthenticator(settings, None, peers)
        place: Path = ("identity", "mtls")
        crl = None if settings.crl is None else self.inputs.files.get(str(settings.crl))
        store = self._open((*place, "ca_bundle"), settings.ca_bundle, TrustStore)
        if store is None:
            return None
        if crl is not None and settings.crl is not None:
            bundle = self.inputs.data(settings.ca_bundle)
            store = self._open((*place, "crl"), settings.crl, lambda data: TrustStore(bundle, data))
        return None if store is None else MtlsAuthenticator(settings, store, peers)

    def _jwt(self) -> JwtAuthenticator | None:
        issuers = list(self._issuers())
        own = self.own_tokens()
        if own is not None:
            others = {each.settings.issuer for each in issuers} | {each.issuer for each in self.settings.identity.asked}
            if own.settings.issuer in others:
                self._mistake(("tokens", "issuer"), f"`{own.settings.issuer}` is an issuer of `identity` too")
                return None
            issuers.append(own)
        if not issuers:
            return None
        mtls = self.settings.identity.mtls
        try:
            return JwtAuthenticator(
                issuers,
                mtls.trust_domains if mtls is not None else (),
                [each.subject_prefix for each in self.settings.identity.asked],
            )
        except ValueError as error:
            if self.whole:
                self._mistake(("identity", "jwt"), str(error))
            return None

    def _asked(self) -> AskedTokens | None:
        identity = self.settings.identity
        others = [each.subject_prefix for each in identity.jwt]
        return AskedTokens(identity.asked, others, self.lasting.answers) if identity.asked else None

    def _issuers(self) -> Iterator[JwtIssuer]:
        for index, settings in enumerate(self.settings.identity.jwt):
            place: Path = ("identity", "jwt", index)
            keys: KeySet | None = None
            if settings.jwks_file is not None:
                keys = self._open((*place, "jwks_file"), settings.jwks_file, from_jwks)
            elif settings.hmac_secret_file is not None:
                keys = self._open((*place, "hmac_secret_file"), settings.hmac_secret_file, from_secret)
            else:
                yield JwtIssuer(settings, NO_KEYS, until_ns=0)
            if keys is None:
                continue
            try:
                yield JwtIssuer(settings, keys)
            except ValueError as error:
                self._mistake((*place, "algorithms"), str(error))

    def own_tokens(self) -> JwtIssuer | None:
        """Return the issuer entry of tokens minted here; None where they are not configured."""
        settings = self.settings.tokens
        if settings is None:
            return None
        key = self.token_key()
        previous = [
            self._open(("tokens", "previous", index), path, load_public_key)
            for index, path in enumerate(settings.previous)
        ]
        if key is None:
            return None
        if key.public is None and settings.previous:
            self._mistake(("tokens", "previous"), "former keys go with a public-key algorithm, not with a secret")
            return None
        keys = verification_keys(key, [each for each in previous if each is not None])
        return own_issuer(settings, keys)

    def token_key(self) -> SigningKey | None:
        """Return the key that tokens minted here are signed with."""
        settings = self.settings.tokens
        if settings is None:
            return None
        return self._open(
            ("tokens", "private_key"), settings.private_key, lambda data: load_signing_key(data, symmetric=True)
        )

    def _api_keys(self) -> ApiKeyAuthenticator | None:
        settings = self.settings.identity.api_keys
        if settings is None or str(settings.file) not in self.inputs.files:
            return None
        try:
            return ApiKeyAuthenticator(
                settings, read_keys(self.inputs.text(settings.file), str(settings.file)), self.lasting.used
            )
        except DocumentError as error:
            self.mistakes += error.diagnostics
        except ValueError as error:
            self._mistake(("identity", "api_keys", "file"), str(error))
        return None

    def _routes(self) -> RouteTable:
        limit = self.settings.server.max_request_bytes
        try:
            inline, sources = self.inputs.resource_documents()
            return load_resources(sources, inline=inline, max_request_bytes=limit)
        except DocumentError as error:
            self.mistakes += error.diagnostics
            return RouteTable((), Catalog(()), limit)

    def _policies(self) -> PolicySet:
        plain = self.inputs.policies
        document = PolicyDocument() if plain is None else undump(plain)
        return compile_policies(document, strict_time=self.settings.server.strict_time)

    def _headers(self, chain: Chain, policies: PolicySet) -> HeaderPlan:
        response = self.settings.response
        assertion = self._assertion(chain)
        templates: list[tuple[str, Template]] = []
        for name, source in response.headers.items():
            try:
                templates.append((name, compile_template(source, known_variable)))
            except TemplateError as error:
                self._mistake(("response", "headers", name), str(error))
        return HeaderPlan(
            templates=tuple(templates),
            injectable=frozenset(response.headers) | policies.injectable | ({assertion.name} if assertion else set()),
            remove=frozenset(response.remove),
            credentials=chain.credential_headers,
            bearers=chain.bearer_headers,
            cookies=chain.cookies,
            parameters=chain.parameters,
            forward_credentials=response.forward_credentials,
            revision=self.inputs.revision,
            assertion=assertion,
        )

    def assertion_keys(self) -> tuple[SigningKey, KeySet] | None:
        """Return the key that assertions for upstreams are signed with, and those they are verified with."""
        settings = self.settings.response.assertion
        if settings is None:
            return None
        place: Path = ("response", "assertion")
        key = self._open((*place, "private_key"), settings.private_key, load_signing_key)
        others = [
            self._open((*place, "previous", index), path, load_public_key)
            for index, path in enumerate(settings.previous)
        ]
        return None if key is None else (key, verification_keys(key, [each for each in others if each is not None]))

    def _assertion(self, chain: Chain) -> Assertion | None:
        """Return the signer of assertions, which must be useless as credentials here (CONTRACT section 7)."""
        settings, keys = self.settings.response.assertion, self.assertion_keys()
        if settings is None or keys is None:
            return None
        issuers = {} if chain.jwt is None else chain.jwt.issuers
        prints = [each.thumbprint for issuer in issuers.values() for each in issuer.keys.keys]
        trusted = {*issuers, *(each.issuer for each in self.settings.identity.asked)}
        for each in conflicts(keys[1], settings.issuer, trusted, prints):
            place = "issuer" if each.startswith("`") else "private_key"
            self._mistake(("response", "assertion", place), each)
        try:
            audience = compile_template(settings.audience, known_variable)
        except TemplateError as error:
            self._mistake(("response", "assertion", "audience"), str(error))
            return None
        signer = AssertionSigner(keys[0], settings.issuer, settings.lifetime)
        return Assertion(settings.header, audience, signer.sign)
