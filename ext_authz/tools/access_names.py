"""Names in a question of `access` that no policy in force has: a slip there looks like "nobody may".

Law: said beside the answer, never instead of it; a wildcard of a policy has every name it covers.
"""

from collections.abc import Collection, Iterator

from ext_authz.documents import did_you_mean
from ext_authz.policy.engine import PolicySet
from ext_authz.policy.matching import Values
from ext_authz.tools.access import Question


def unheard_of(policies: PolicySet, asked: Question, roles: Collection[str] = ()) -> Iterator[str]:
    """Yield a sentence for the action, the type and each of `roles` that no enforced policy speaks of."""
    wanted: list[tuple[str, str]] = [] if asked.action is None else [("action", asked.action)]
    if asked.resource is not None:
        wanted.append(("type", asked.resource["type"]))
    wanted += [("role", role) for role in roles]
    for kind, name in wanted:
        named = list(_listed(policies, kind))
        if not any(each.accepts(name) for each in named):
            hint = did_you_mean(name, sorted({text for each in named for text in each.exact}))
            yield f"no policy names the {'resource type' if kind == 'type' else kind} `{name}`{hint}"


def _listed(policies: PolicySet, kind: str) -> Iterator[Values]:
    for policy in policies.policies:
        if policy.shadow:
            continue
        if kind == "action":
            yield from () if policy.actions is None else (policy.actions,)
        else:
            entries = policy.subjects if kind == "role" else policy.resources
            yield from (values for entry in entries or () for key, values in entry.tests if key == kind)
