"""Every mistake is one line at its place, all of them at once."""

import pytest
from policy_support import load, mistakes, policy

from ext_authz.documents import DocumentError
from ext_authz.policy.schema import load_policies

HEAD = "policies:\n- id: p\n"
ALLOW = HEAD + '  subjects: [{any: true}]\n  resources: [{type: "*"}]\n  actions: ["*"]\n'
DENY = HEAD + "  effect: deny\n"

CASES = {
    "an empty file": ("", ["1:1 the file is empty; it should hold `policies`"]),
    "an empty mapping": ("{}", ["1:1 the file is empty; it should hold `policies`"]),
    "a bare list": ("- id: p", ["1:1 a policy file is a mapping with `policies`, `time_windows` or both"]),
    "not yaml": ("policies: [", ["2:1 did not find expected node content"]),
    "an unknown key of the file": (
        "polices:\n- id: p",
        ["1:1 unknown key of a policy file `polices`, did you mean `policies`?"],
    ),
    "no policies": ("policies: []", ["1:11 `policies` is an empty list"]),
    "policies as a mapping": ("policies: {id: p}", ["1:11 `policies` must be a list"]),
    "a policy that is a word": ("policies: [p]", ["1:12 a policy must be a mapping (`key: value`)"]),
    "an empty policy": ("policies: [{}]", ["1:12 a policy is empty"]),
    "no id": ("policies:\n- effect: deny", ["2:3 a policy has no `id`"]),
    "a null id": ("policies:\n- id:\n  effect: deny", ["2:6 `id` is empty"]),
    "an odd id": (
        "policies: [{id: a b, effect: deny}]",
        ["1:17 `a b` is not an id: letters, digits and `_ - . : / @`, at most 128"],
    ),
    "a second policy of one id": (
        "policies: [{id: p, effect: deny}, {id: p, effect: deny}]",
        ["1:40 duplicate policy id `p`, first at p.yaml:1:17"],
    ),
    "a duplicate key": ("policies: [{id: p, id: q}]", ["1:20 duplicate key `id`"]),
    "an unknown key of a policy": (
        ALLOW + "  condition: []",
        ["6:3 unknown key of a policy `condition`, did you mean `conditions`?"],
    ),
    "an unknown effect": (ALLOW + "  effect: permit", ["6:11 unknown `effect` `permit`; it is one of `allow`, `deny`"]),
    "an effect nearly right": (ALLOW + "  effect: allows", ["6:11 unknown `effect` `allows`, did you mean `allow`?"]),
    "an end that no 64 bits hold": (
        DENY + "  not_after: 9999-12-31T23:59:59Z",
        ["4:14 `not_after` must be from 1678 to 2261; what has no end is left out"],
    ),
    "an unknown mode": (DENY + "  mode: audit", ["4:9 unknown `mode` `audit`; it is one of `enforce`, `shadow`"]),
    "an allow without its lists": (
        "policies: [{id: p}]",
        [
            "1:17 an allow policy has no `subjects`; any is written `subjects: [{any: true}]`",
            '1:17 an allow policy has no `resources`; any is written `resources: [{type: "*"}]`',
            '1:17 an allow policy has no `actions`; any is written `actions: ["*"]`',
        ],
    ),
    "empty lists": (
        HEAD + "  subjects: []\n  resources: []\n  actions: []\n  conditions: []",
        [
            "3:13 `subjects` is an empty list",
            "4:14 `resources` is an empty list",
            "5:12 `actions` is an empty list",
            "6:15 `conditions` is an empty list",
        ],
    ),
    "empty entries": (
        HEAD + "  effect: deny\n  subjects: [{}]\n  resources: [{}]\n  actions: ['']\n  conditions: [{}]",
        [
            "4:14 a subject is empty",
            "5:15 a resource is empty",
            "6:13 `actions` is empty",
            "7:16 a condition is empty",
        ],
    ),
    "lists that are nothing": (
        HEAD + "  effect: deny\n  subjects:\n  resources: ~\n  actions: null",
        ["4:12 `subjects` must be a list", "5:14 `resources` must be a list", "6:12 `actions` is empty"],
    ),
    "an unknown subject key": (
        DENY + "  subjects: [{rol: ds}]",
        ["4:15 unknown key of a subject `rol`, did you mean `role`?"],
    ),
    "an empty alternative": (DENY + "  subjects: [{role: []}]", ["4:21 `role` is an empty list"]),
    "a list in a list": (DENY + "  subjects: [{role: [[a]]}]", ["4:22 `role` must be text"]),
    "a star in the middle": (
        DENY + "  resources: [{id: a*b}]",
        ["4:20 in `a*b` the `*` must be the last character"],
    ),
    "two stars": (DENY + '  actions: ["**"]', ["4:13 in `**` the `*` must be the last character"]),
    "a space at the end": (DENY + '  actions: ["infer "]', ["4:13 `actions` begins or ends with a space"]),
    "a control character": (
        DENY + '  actions: ["in\\u0007fer"]',
        ["4:13 `actions` holds a character that cannot be printed"],
    ),
    "a very long name": (DENY + f"  actions: [{'a' * 1025}]", ["4:13 `actions` is longer than 1024 characters"]),
    "an unknown way to sign in": (
        DENY + "  subjects: [{auth: [jwt, mtl]}]",
        ["4:27 unknown `auth` `mtl`, did you mean `mtls`?"],
    ),
    "any beside another key": (
        DENY + "  subjects: [{any: true, role: x}]",
        ["4:15 `any: true` stands alone; beside other keys it would say nothing"],
    ),
    "any that is false": (
        DENY + "  subjects: [{any: false}]",
        ["4:20 `any: false` asks for nothing; leave it out"],
    ),
    "an approval with company": (
        DENY + "  subjects: [{approval: sec, role: x}]",
        ["4:15 `approval` stands alone in its entry, or under `conditions`; it is required of every alternative"],
    ),
    "only approvals": (
        DENY + "  subjects: [{approval: sec}]",
        ["4:13 `subjects` lists only approvals; say also who they are for"],
    ),
    "an approval by a pattern": (
        DENY + '  conditions: [{approval: "*"}]',
        ["4:27 `approval` names one group, not a pattern such as `*`"],
    ),
    "an approval by several groups": (DENY + "  conditions: [{approval: [a, b]}]", ["4:27 `approval` must be text"]),
    "approvals of nobody": (
        ALLOW + "  approvals: 2",
        ["6:3 `approvals` counts people, but no `approval: GROUP` says whose"],
    ),
    "no approvals at all": (
        ALLOW + "  approvals: 0\n  conditions: [{approval: a}]",
        ["6:14 `approvals` must be a whole number from 1 to 16"],
    ),
    "a group as an id": (
        DENY + '  subjects: [{id: "group:x"}]',
        ["4:19 `group:x` is nobody's id: a group is written `group: NAME`"],
    ),
    "anonymous as an id": (
        DENY + '  subjects: [{id: "anonymous:"}]',
        ["4:19 `anonymous:` is nobody's id: an anonymous caller is written `auth: anonymous`"],
    ),
    "half a SPIFFE ID": (
        DENY + '  subjects: [{id: "spiffe:x"}]',
        ["4:19 `spiffe:x` is nobody's id: a SPIFFE ID begins with `spiffe://`"],
    ),
    "a workload without a type": (
        DENY + "  subjects: [{workload: checkout}]",
        ["4:25 `checkout` is not a certificate's name: `spiffe://…`, `dns:NAME` or `x509:SUBJECT`"],
    ),
    "a claim that is a word": (DENY + "  subjects: [{claim: team}]", ["4:22 `claim` must be a mapping (`key: value`)"]),
    "a resource that is a word": (DENY + "  resources: [model]", ["4:15 a resource must be a mapping (`key: value`)"]),
    "an unknown condition": (
        DENY + "  conditions: [{ip_rang: 10.0.0.0/8}]",
        ["4:17 unknown condition `ip_rang`, did you mean `ip_range`?"],
    ),
    "a bad address range": (
        DENY + "  conditions: [{ip_range: 10.0.0/8}]",
        ["4:27 `10.0.0/8` is not an address range such as `10.0.0.0/8` or `2001:db8::/32`"],
    ),
    "bits beyond the prefix": (
        DENY + "  conditions: [{ip_range: [10.0.0.0/8, 10.1.2.3/16]}]",
        ["4:40 `10.1.2.3/16` has bits beyond its prefix, did you mean `10.1.0.0/16`?"],
    ),
    "an address with a zone": (
        DENY + '  conditions: [{ip_range: "fe80::1%eth0"}]',
        ["4:27 `fe80::1%eth0` names a zone; an address range has none"],
    ),
    "an unknown window": (
        DENY + "  conditions: [{time_window: busines_hours}]",
        ["4:30 unknown time window `busines_hours`, did you mean `business_hours`?"],
    ),
    "a window like no other": (
        DENY + "  conditions: [{time_window: weekend}]",
        ["4:30 unknown time window `weekend`; define it under `time_windows`"],
    ),
    "a false requirement": (
        DENY + "  conditions: [{mfa_required: false}, {audit_logged: maybe}]",
        [
            "4:31 `mfa_required: false` asks for nothing; leave it out",
            "4:54 `audit_logged` takes only `true`",
        ],
    ),
    "an odd duration": (
        DENY + "  conditions: [{max_token_age: 15 minutes}, {max_token_age: 0s}]",
        [
            "4:32 `15 minutes` is not a duration such as `500ms`, `30s`, `15m`, `1h` or `7d`",
            "4:61 `max_token_age` must be more than nothing and at most 3650d",
        ],
    ),
    "an odd risk": (
        DENY + "  conditions: [{max_risk: critical}, {max_risk: hih}]",
        [
            "4:27 `max_risk: critical` asks for nothing; leave it out",
            "4:49 unknown risk `hih`, did you mean `high`?",
        ],
    ),
    "limits without numbers": (
        DENY + "  conditions: [{max: {batch_size: many}}, {max: {}}]",
        ["4:35 `max` of `batch_size` must be a number, not `many`", "4:49 `max` is empty"],
    ),
    "a ttl of nothing": (ALLOW + "  ttl: 500ms", ["6:8 `ttl` is counted in seconds: at least `1s`, at most `365d`"]),
    "a ttl that is no duration": (
        ALLOW + "  ttl: 5",
        ["6:8 `5` is not a duration such as `500ms`, `30s`, `15m`, `1h` or `7d`"],
    ),
    "ttl and headers of a deny": (
        DENY + "  ttl: 1h\n  headers: {x-a: b}",
        [
            "4:3 `ttl` belongs to an allow policy; a denial has none",
            "5:3 `headers` belongs to an allow policy; a denial has none",
        ],
    ),
    "times without an offset": (
        DENY + "  not_before: 2026-11-23\n  not_after: 2026-11-23T10:00:00",
        [
            "4:15 `2026-11-23` is not a time with an offset such as `2026-11-23T10:00:00Z`",
            "5:14 `2026-11-23T10:00:00` is not a time with an offset such as `2026-11-23T10:00:00Z`",
        ],
    ),
    "a day that is not in the calendar": (
        DENY + "  not_before: 2026-02-30T10:00:00Z",
        ["4:15 `2026-02-30T10:00:00Z` is not a time with an offset such as `2026-11-23T10:00:00Z`"],
    ),
    "headers that cannot be set": (
        ALLOW + "  headers: {Host: a, content-length: '1', x-ok: '${subject.nam}', x-list: [a]}",
        [
            "6:13 `Host` is not a lower-case header name",
            "6:22 `content-length` belongs to HTTP, Envoy or this sidecar and cannot be set",
            "6:49 unknown variable `${subject.nam}`, did you mean `${subject.name}`?",
            "6:75 header `x-list` must be text",
        ],
    ),
    "headers of nothing": (ALLOW + "  headers: {}", ["6:12 `headers` is empty"]),
    "too many headers": (
        ALLOW + "  headers: {" + ", ".join(f"x-h{n}: a" for n in range(31)) + "}",
        ["6:12 more than 30 headers"],
    ),
    "a description that is a list": (DENY + "  description: [a]", ["4:16 `description` must be text"]),
    "windows in every wrong way": (
        (
            "time_windows:\n"
            "  a: {days: [mon-fry], from: '9:00', to: '25:00', timezone: Europe/Berlim}\n"
            "  b: {from: '09:00', to: '09:00'}\n"
            "  c: {from: '24:00', too: '10:00'}\n"
            "  d: {days: [], from: '00:00', to: '24:00', timezone: localtime}\n"
            "  e: noon\n"
        ),
        [
            "2:14 unknown day `fry`, did you mean `fri`?",
            "2:30 `from` must be a time of day from `00:00` to `23:59`, not `9:00`",
            "2:42 `to` must be a time of day from `00:00` to `24:00`, not `25:00`",
            "2:61 unknown time zone `Europe/Berlim`, did you mean `Europe/Berlin`?",
            '3:26 `from` and `to` are the same; for the whole day write `from: "00:00"`, `to: "24:00"`',
            "4:6 time window `c` has no `to`",
            "4:13 `from` must be a time of day from `00:00` to `23:59`, not `24:00`",
            "4:22 unknown key of a time window `too`, did you mean `to`?",
            "5:13 `days` is an empty list",
            "5:55 unknown time zone `localtime`",
            "6:6 time window `e` must be a mapping (`key: value`)",
        ],
    ),
    "an inline window without its end": (
        DENY + "  conditions: [{time_window: {from: '09:00'}}]",
        ["4:30 `time_window` has no `to`"],
    ),
    "lists where texts belong": (
        DENY
        + "  not_before: [a]\n  approvals: [1]\n  mode: {a: b}\n"
        + "  conditions: [{max_token_age: [1m]}, {time_window: [a]}, {max: {a: [1]}}, {approval: ''}, {ip_range: [[a]]},"
        + " {time_window: {from: [a], to: {b: c}, timezone: [d]}}, {mfa_required: [true]}]",
        [
            "4:15 `not_before` must be text",
            "5:3 `approvals` counts people, but no `approval: GROUP` says whose",
            "5:14 `approvals` must be text",
            "6:9 `mode` must be text",
            "7:32 `max_token_age` must be text",
            "7:53 `time_window` is one window: further ones are conditions or policies of their own",
            "7:69 `max` of `a` must be a number",
            "7:87 `approval` is empty",
            "7:104 `ip_range` must be text",
            "7:132 `from` must be text",
            "7:141 `to` must be text",
            "7:159 `timezone` must be text",
            "7:181 `mfa_required` takes only `true`",
        ],
    ),
    "names of nothing": (
        "time_windows: {'': {from: '09:00', to: '10:00'}}\n"
        + DENY
        + "  subjects: [{claim: {'': x}}, {claim: {a: []}}]\n  resources: [{'': x}, {a: []}]",
        [
            "1:16 the name of a time window is empty",
            "5:23 the name of a claim is empty",
            "5:44 claim `a` is an empty list",
            "6:16 an attribute is empty",
            "6:28 `a` is an empty list",
        ],
    ),
    "too many alternatives": (
        DENY + f"  actions: [{', '.join(['a'] * 10_001)}]",
        ["4:12 `actions` lists more than 10000 alternatives"],
    ),
    "approvals of two kinds of wrong": (
        DENY + "  subjects: [{any: true}, {approval: [a]}, sec]",
        ["4:38 `approval` must be text", "4:44 a subject must be a mapping (`key: value`)"],
    ),
    "windows of nothing": ("time_windows:\n", ["1:14 `time_windows` must be a mapping (`key: value`)"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_reported_at_its_place(name):
    text, expected = CASES[name]
    assert mistakes(text) == expected


def test_mistakes_of_all_files_come_at_once_with_carets():
    files = {
        "a.yaml": "policies: []\n",
        "b.yaml": "polices: []\n",
        "c.yaml": "policies: [{id: p, effect: deny, tt: 1}]\n",
    }
    with pytest.raises(DocumentError) as caught:
        load_policies(files)
    assert str(caught.value).splitlines() == [
        "a.yaml:1:11: `policies` is an empty list",
        "  policies: []",
        "            ^",
        "b.yaml:1:1: unknown key of a policy file `polices`, did you mean `policies`?",
        "  polices: []",
        "  ^",
        "c.yaml:1:34: unknown key of a policy `tt`, did you mean `ttl`?",
        "  policies: [{id: p, effect: deny, tt: 1}]",
        "                                   ^",
    ]


def test_an_id_and_a_window_are_unique_over_all_files():
    one = "time_windows: {w: {from: '09:00', to: '10:00'}}\npolicies: [{id: p, effect: deny}]"
    with pytest.raises(DocumentError) as caught:
        load_policies({"a.yaml": one, "b.yaml": one})
    assert [each.render() for each in caught.value.diagnostics] == [
        "b.yaml:1:16: time window `w` is defined twice, first at a.yaml:1:16",
        "b.yaml:2:17: duplicate policy id `p`, first at a.yaml:2:17",
    ]


def test_a_window_may_be_defined_in_a_later_file():
    user = policy("{time_window: late}")
    definition = "time_windows: {late: {from: '22:00', to: '06:00'}}"
    loaded = load_policies({"a.yaml": user, "b.yaml": definition})
    assert loaded.policies[0].conditions[0].window == loaded.windows["late"]


def test_a_broken_window_is_reported_once_not_at_every_use():
    text = "time_windows: {w: {from: '09:00', to: '09:00'}}\n" + policy("{time_window: w}")
    assert len(mistakes(text)) == 1


def test_yaml_words_stay_words():
    (made,) = load("policies: [{id: no, effect: deny, actions: [0123, yes, 1.0, null_]}]").policies
    assert (made.id, made.actions) == ("no", ("0123", "yes", "1.0", "null_"))


def test_the_folder_of_a_zone_is_not_a_zone():
    text = "time_windows: {w: {from: '09:00', to: '10:00', timezone: %s}}"
    for name in ("Europe", "../UTC", "/etc/passwd", "posix/UTC", "utc0"):
        assert "unknown time zone" in mistakes(text % name)[0]


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("  actions: {infer: true}", ["4:12 `actions` must be text or a list of texts"]),
        ("  conditions: [{max: {a: ''}}]", ["4:26 `max` of `a` is empty"]),
        ("  conditions: [{time_window: ''}]", ["4:30 `time_window` is empty"]),
        ("  subjects: [{role: {a: b}}]", ["4:21 `role` must be text or a list of texts"]),
    ],
)
def test_what_is_neither_text_nor_a_list_is_said_to_be_neither(more, found):
    assert mistakes(DENY + more) == found
