"""Finds unsafe settings in an Envoy bootstrap: each finding has a rule's id, a place and what to do instead.

Law: a setting that cannot be understood is never taken for safe; a line is
let off only by `# ext-authz lint: allow EA000` on it or just above it.
Non-goal: xDS, and what Envoy itself refuses (`envoy --mode validate`).
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from ext_authz.documents import Diagnostic, MappingNode, Mark, Node, load
from ext_authz.envoy_config import rules_cluster, rules_connection, rules_filter, rules_route, rules_tls
from ext_authz.envoy_config.rules import MANAGER, NETWORK_AUTHZ, Bootstrap, Facts, Finding, Manager
from ext_authz.envoy_config.tree import config, extension, get, items, mark

_ALLOW: Final = re.compile(r"#.*\bext-authz lint: allow((?:[ ,]+EA[0-9]{3})+)")


def lint_text(text: str, file: str, facts: Facts | None = None) -> tuple[Diagnostic, ...]:
    """Return what is unsafe in a bootstrap, in the order of the file. Raises DocumentError where it is no YAML.

    `facts` are what the sidecar's own configuration says, compared where given.
    """
    root = load(text, file)
    findings = _lint(root, file, facts or Facts())
    allowed = _allowances(text)
    made = [
        Diagnostic(each.mark, f"{each.message} [{each.rule}]", warning=each.warning, code=each.rule)
        for each in findings
        if each.rule not in allowed.get(each.mark.line, ()) and each.rule not in allowed.get(each.mark.line - 1, ())
    ]
    unique = dict.fromkeys(made)
    return tuple(sorted(unique, key=lambda found: (found.mark or Mark(file, 0, 0), found.code)))


def _allowances(source: str) -> dict[int, frozenset[str]]:
    """Return the rules let off, by line (from 1)."""
    found: dict[int, frozenset[str]] = {}
    for number, line in enumerate(source.splitlines(), start=1):
        match = _ALLOW.search(line)
        if match:
            found[number] = frozenset(re.findall(r"EA[0-9]{3}", match[1]))
    return found


def _lint(root: Node | None, file: str, facts: Facts) -> Iterator[Finding]:
    if get(root, "static_resources") is None:
        place = root.mark if root is not None else Mark(file, 1, 1)
        yield Finding("EA000", place, "no `static_resources`: this is no bootstrap, and nothing in it was looked at")
        return
    bootstrap = Bootstrap(root, facts)
    managers = list(_managers(bootstrap))
    for manager in managers:
        yield from _manager(bootstrap, manager)
    yield from _network_filters(bootstrap)
    yield from rules_connection.process(bootstrap)
    yield from rules_cluster.admin(bootstrap)
    for name in sorted(_authz_clusters(managers, bootstrap)):
        cluster = bootstrap.cluster(name)
        if cluster is not None:
            yield from rules_cluster.authz(cluster, facts)


def _manager(bootstrap: Bootstrap, manager: Manager) -> Iterable[Finding]:
    filters = manager.authz_filters()
    if not filters:
        yield Finding(
            "EA001", mark(manager.config, "http_filters"), "this listener asks nobody: it has no ext_authz filter"
        )
    for each in filters:
        yield from rules_filter.http(bootstrap, manager, each)
    yield from rules_route.routes(manager)
    yield from rules_connection.manager(bootstrap, manager)
    yield from rules_tls.filter_chain(manager.chain)


def _managers(bootstrap: Bootstrap) -> Iterator[Manager]:
    for listener in items(get(bootstrap.root, "static_resources", "listeners")):
        chains = [*items(get(listener, "filter_chains")), get(listener, "default_filter_chain")]
        for chain in chains:
            for each in items(get(chain, "filters")):
                settings = config(each)
                if extension(each).endswith(MANAGER) and isinstance(settings, MappingNode):
                    yield Manager(listener, chain, settings)


def _network_filters(bootstrap: Bootstrap) -> Iterator[Finding]:
    for listener in items(get(bootstrap.root, "static_resources", "listeners")):
        for chain in [*items(get(listener, "filter_chains")), get(listener, "default_filter_chain")]:
            for each in items(get(chain, "filters")):
                if extension(each).endswith(NETWORK_AUTHZ):
                    yield from rules_filter.network(bootstrap, config(each))


def _authz_clusters(managers: Iterable[Manager], bootstrap: Bootstrap) -> set[str]:
    names = {rules_filter.cluster_name(config(each))[0] for manager in managers for each in manager.authz_filters()}
    return {name for name in names if name and bootstrap.cluster(name) is not None}
