"""What must hold between the sections of a configuration file, or within one beyond its types.

Law: pure; each rule yields diagnostics at the place that should change.
Non-goal: rules of a single component (its settings model or its builder has them).
"""

from collections.abc import Collection, Iterator
from itertools import combinations
from typing import Final

from ext_authz.audit.sinks.opening import sink_problem
from ext_authz.authn import asked, together
from ext_authz.authn.asked_settings import AskedSettings
from ext_authz.authn.jwt_settings import JwtSettings
from ext_authz.config.schema import UNIX, WORKER, Settings, is_local
from ext_authz.documents import Diagnostic, MappingNode, Mark, Node, Path, mark_at
from ext_authz.headers import MAX_HEADERS, header_name_problem, known_variable, near_variable
from ext_authz.template import TemplateError, compile_template

_OWN_HEADERS: Final = 2


def broken_rules(settings: Settings, node: Node, wrong: Collection[Path] = ()) -> list[Diagnostic]:
    """Return every mistake between the sections; what is `wrong` already and was cut out breaks no rule again."""
    rules = [rule for rule in _RULES if not any(path[:2] == _NEEDS.get(rule) for path in wrong)]
    return [Diagnostic(mark, message) for rule in rules for mark, message in rule(settings, node)]


_TLS: Final = ("server", "tls")
_CURE: Final = "set `tls.client_ca` and `tls.client_names`, or `unsafe_plaintext: true`"


Broken = Iterator[tuple[Mark | None, str]]


def _reachable_needs_tls(settings: Settings, node: Node) -> Broken:
    """Whoever reaches the listener can claim any principal (CONTRACT section 2)."""
    server = settings.server
    proven = server.tls is not None and server.tls.client_ca is not None and server.tls.client_names
    if proven or server.unsafe_plaintext:
        return
    for index, address in enumerate(server.listen):
        if not is_local(address):
            yield (
                mark_at(node, ("server", "listen", index)),
                f"`{address}` is reachable from other machines: {_CURE}",
            )


def _names_need_an_authority(settings: Settings, node: Node) -> Broken:
    for section, tls in (("server", settings.server.tls), ("admin", settings.admin.tls)):
        if tls is not None and tls.client_names and tls.client_ca is None:
            yield mark_at(node, (section, "tls", "client_names"), key=True), "`client_names` needs `client_ca`"


def _listeners_stand_apart(settings: Settings, node: Node) -> Broken:
    server = settings.server
    many = server.workers == "auto" or server.worker_count() > 1
    for index, address in enumerate(server.listen):
        mark = mark_at(node, ("server", "listen", index))
        if address in server.listen[:index]:
            yield mark, f"`{address}` is listed twice"
        if many and address.startswith(UNIX) and WORKER not in address:
            yield mark, f"several workers cannot share `{address}`: put `{WORKER}` into its name"
        if many and address.endswith(":0"):
            yield mark, f"several workers cannot share `{address}`: name a port"
    if settings.admin.listen in server.listen and not settings.admin.listen.endswith(":0"):
        yield mark_at(node, ("admin", "listen")), f"`{settings.admin.listen}` is the server's own listener"
    if WORKER in settings.admin.listen:
        yield mark_at(node, ("admin", "listen")), f"`{WORKER}` stands only in `server.listen`"


def _tls_is_tcp(settings: Settings, node: Node) -> Broken:
    server = settings.server
    if server.tls is not None and all(address.startswith(UNIX) for address in server.listen):
        yield mark_at(node, ("server", "tls"), key=True), "`tls` is for TCP, and only Unix sockets are listened on"
    if settings.admin.tls is not None and settings.admin.listen.startswith(UNIX):
        yield mark_at(node, ("admin", "tls"), key=True), "`tls` is for TCP, and a Unix socket is listened on"
    if server.transport == "native" and server.tls is not None:
        yield mark_at(node, ("server", "transport")), "transport `native` has no TLS"
    if server.socket_group and not any(address.startswith(UNIX) for address in server.listen):
        mark = mark_at(node, ("server", "socket_group"), key=True)
        yield mark, "`socket_group` is for Unix sockets, and none is listened on"


def _headers_can_be_set(settings: Settings, node: Node) -> Broken:
    headers = settings.response.headers
    if len(headers) + _OWN_HEADERS > MAX_HEADERS:
        yield mark_at(node, ("response", "headers"), key=True), f"more than {MAX_HEADERS - _OWN_HEADERS} headers"
    for name, template in headers.items():
        problem = header_name_problem(name)
        if problem:
            yield mark_at(node, ("response", "headers", name), key=True), problem
        try:
            compile_template(template, known_variable, near_variable)
        except TemplateError as error:
            yield mark_at(node, ("response", "headers", name)), str(error)
    assertion = settings.response.assertion
    if assertion is not None:
        place: Path = ("response", "assertion")
        problem = header_name_problem(assertion.header)
        if problem:
            yield mark_at(node, (*place, "header")), problem
        if assertion.header in headers:
            yield mark_at(node, (*place, "header")), f"`{assertion.header}` is set by `headers` too"
        try:
            compile_template(assertion.audience, known_variable, near_variable)
        except TemplateError as error:
            yield mark_at(node, (*place, "audience")), str(error)
    for index, name in enumerate(settings.response.remove):
        mark = mark_at(node, ("response", "remove", index))
        if name in headers or (assertion is not None and name == assertion.header):
            yield mark, f"`{name}` is also set; Envoy removes after it sets"
        elif problem := header_name_problem(name):
            yield mark, problem.replace("cannot be set", "cannot be removed")


def _issuers_are_told_apart(settings: Settings, node: Node) -> Broken:
    identity = settings.identity
    issuers: list[tuple[Path, JwtSettings | AskedSettings]] = [
        *((("identity", "jwt", index), each) for index, each in enumerate(identity.jwt)),
        *((("identity", "introspection", index), each) for index, each in enumerate(identity.introspection)),
    ]
    if identity.token_review is not None:
        issuers.append((("identity", "token_review"), identity.token_review))
    places = [path for path, each in issuers if isinstance(each, AskedSettings)]
    for index, key, message in asked.mistakes(identity.asked):
        yield mark_at(node, (*places[index], key)), message
    for (_, first), (path, second) in combinations(issuers, 2):
        if first.issuer == second.issuer:
            yield mark_at(node, (*path, "issuer")), f"issuer `{second.issuer}` is listed twice"
        elif first.subject_prefix == second.subject_prefix:
            yield (
                mark_at(node, (*path, "subject_prefix")),
                f"`subject_prefix` must differ from that of `{first.issuer}`: one could name the other's subjects",
            )


def _identity_holds_together(settings: Settings, node: Node) -> Broken:
    identity = settings.identity
    peers = settings.server.trusted_proxies
    for place, message in together.mistakes(identity.mtls, identity.jwt, peers, identity.api_keys):
        yield mark_at(node, place), message


def _sinks_can_be_opened(settings: Settings, node: Node) -> Broken:
    for index, sink in enumerate(settings.audit.sinks):
        problem = sink_problem(sink, settings.run_dir / "audit")
        if problem:
            key = "path" if sink.type == "file" else "type"
            yield mark_at(node, ("audit", "sinks", index, key)), problem


_RULES = (
    _reachable_needs_tls,
    _names_need_an_authority,
    _listeners_stand_apart,
    _tls_is_tcp,
    _headers_can_be_set,
    _issuers_are_told_apart,
    _identity_holds_together,
    _sinks_can_be_opened,
)
# Rules that say nothing of a section whose own mistakes were cut out.
_NEEDS: Final = {_reachable_needs_tls: _TLS, _identity_holds_together: ("identity", "mtls")}


def advice(settings: Settings, node: MappingNode) -> list[Diagnostic]:
    """Return warnings about a configuration that loads and is probably not what is wanted."""
    return [Diagnostic(mark, message, warning=True, code=code) for mark, message, code in _advice(settings, node)]


def _advice(settings: Settings, node: MappingNode) -> Iterator[tuple[Mark | None, str, str]]:
    identity = settings.identity
    if (
        identity.mtls is None
        and not identity.jwt
        and not identity.asked
        and identity.api_keys is None
        and not identity.unsafe_anonymous
    ):
        yield (
            mark_at(node, ("identity",)) if node.get("identity") else None,
            "no way to prove identity is configured: every request but those of public routes is refused",
            "no_identity",
        )
    resources = settings.resources
    if not (resources.routes or resources.catalog or resources.files or settings.policies.bundle):
        yield None, "no routes are configured: every request is refused with `no_route`", "no_routes"
    if settings.server.unsafe_plaintext and not all(is_local(address) for address in settings.server.listen):
        yield (
            mark_at(node, ("server", "unsafe_plaintext"), key=True),
            "whoever reaches the listener can claim any principal",
            "unsafe",
        )
    if identity.unsafe_anonymous:
        mark = mark_at(node, ("identity", "unsafe_anonymous"), key=True)
        yield mark, "callers without a credential are let in", "unsafe"
    admin = settings.admin
    if admin.token_file is not None and admin.tls is None and not is_local(admin.listen):
        yield (
            mark_at(node, ("admin", "token_file"), key=True),
            f"nobody is asked for the token: beyond loopback, as `{admin.listen}`, all but the open paths needs `tls`",
            "admin_without_tls",
        )
    run_dir = str(settings.run_dir.absolute())
    for index, address in enumerate(settings.server.listen):
        if address.startswith(UNIX + run_dir + "/"):
            yield (
                mark_at(node, ("server", "listen", index)),
                "a socket in `run_dir` (0700) is out of reach for Envoy's user",
                "socket_in_run_dir",
            )
