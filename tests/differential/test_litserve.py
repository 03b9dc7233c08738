"""LitServe (FastAPI, pydantic) acts on a model only where we said that model, or refused; nor on larger numbers.

Random requests go both to the mappers and to LitServe's application in process.
"""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapping_support import ask, facts, table

from ext_authz.model import Refusal, Target

pytest.importorskip("litserve", reason="LitServe is a dependency of the tests: pip install --group test")

from litserve_recorder import Recorder

ROUTES = table("routes: [{name: llm, host: h, protocol: openai}]")
EXAMPLES = 20_000 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 2_500


@pytest.fixture
def recorder():
    made = Recorder()
    yield made
    made.close()


def disagreements(acts, target) -> list[str]:
    """What the server did that we did not say; nothing where we refused."""
    if target is None or isinstance(target, Refusal):
        return []
    assert isinstance(target, Target)
    said = {(each.resource.type, each.resource.id, each.action) for each in target.accesses}
    found = [f"the server did {act}, we said {said}" for act in acts if ("model", act.model, act.action) not in said]
    for act in acts:
        for name in ("n", "max_tokens"):
            server, ours = getattr(act, name), target.attributes.get(name)
            # Zero and less are no limit that anybody asks for; unknown to us is refused where a policy limits.
            if server is not None and ours is not None and server > max(ours, 1):
                found.append(f"the server took {name} {server}, we said {ours}")
        if act.stream and target.attributes.get("stream") is False:
            found.append("the server streams, we said it does not")
    return found


values = st.sampled_from(
    ["small", "large", "", None, 7, True, ["small"], {"a": 1}, " small", "small\n", "sm\u0000all", "é", "\ud800"]
)
numbers = st.sampled_from([1, 5, 100, 0, -1, "7", "1e3", 2.0, 2.5, True, None, 10**20, [], "٣"])
keys = st.sampled_from(
    ["model", "Model", "MODEL", "mod\u0065l", "model ", "n", "N", "best_of", "max_tokens", "max_completion_tokens", "maxTokens", "stream", "models", "fallbacks", "x"]
)  # fmt: skip
MESSAGES = [{"role": "user", "content": "hi"}]


@st.composite
def bodies(draw):
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=20))
    pairs = [("model", draw(st.sampled_from(["small", "large"]))), ("messages", MESSAGES), ("input", "hi")]
    if kind > 4:
        pairs += draw(st.lists(st.tuples(keys, values | numbers), max_size=3))
    pairs = draw(st.permutations(pairs))
    text = "{" + ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in pairs) + "}"
    if kind == 1:
        text = text.replace('"model"', '"mod\\u0065l"', 1)
    if kind == 2:
        text = draw(
            st.sampled_from(
                [
                    text + text,
                    text + " x",
                    "\ufeff" + text,
                    f"[{text}]",
                    json.dumps(text),
                    text.replace(":", ": NaN, ", 1),
                    text[:-1],
                ]
            )
        )
    coding = draw(st.sampled_from(["utf-8"] * 6 + ["utf-16", "utf-32", "utf-16-le", "latin-1"]))
    return text.encode(coding, "replace")


paths = st.sampled_from(
    ["/v1/chat/completions"] * 6
    + ["/v1/embeddings"] * 3
    + ["/v1/chat/completions/", "/v1//chat/completions", "/v1/chat%2Fcompletions", "/v1/ch%61t/completions", "/V1/chat/completions", "/v1/chat/completions?model=large", "/v1/chat/completions;x", "/v1/embeddings#x", "/v1/chat/../chat/completions"]
)  # fmt: skip
kinds = st.sampled_from(
    ["application/json"] * 8
    + ["application/json; charset=utf-8", "text/plain", "", "application/json, text/plain", "application/x+json", "application/json; charset=utf-16", "multipart/form-data; boundary=x"]
)  # fmt: skip


def test_rest(recorder, record_property):
    @settings(max_examples=EXAMPLES)
    @given(
        st.sampled_from(["POST"] * 8 + ["GET", "PUT", "OPTIONS"]),
        paths,
        kinds,
        bodies(),
        st.sampled_from([{}] * 5 + [{"content-encoding": "gzip"}]),
    )
    def agree(method, path, kind, body, more):
        headers = {"content-type": kind, "content-length": str(len(body)), **more}
        acts = recorder.rest(method, path, list(headers.items()), body)
        asked = ask(ROUTES, facts(method, path, body=body, headers=headers, protocol="HTTP/1.1"))
        recorder.counted["acted on and mapped"] += bool(acts) and isinstance(asked, Target)
        recorder.counted["acted on and refused"] += bool(acts) and not isinstance(asked, Target)
        assert not disagreements(acts, asked)

    agree()
    for name, count in recorder.counted.items():
        record_property(f"LitServe: {name}", count)
    print("LitServe", dict(recorder.counted))  # noqa: T201  shown by `pytest -s`, and by a failure
    assert recorder.counted["acted on and mapped"] > 60, "the requests are such that the comparison means something"
    assert recorder.counted["acted on and refused"] > 50


def test_the_recorder_sees_what_the_real_server_would_do(recorder):
    """The comparison is not vacuous: known attacks reach another model behind the parser."""
    headers = [("content-type", "application/json")]

    def models(body):
        return [act.model for act in recorder.rest("POST", "/v1/chat/completions", headers, body)]

    messages = json.dumps(MESSAGES)
    assert models(f'{{"model": "small", "messages": {messages}, "model": "large"}}'.encode()) == ["large"]
    assert models(f'{{"model": "large", "messages": {messages}}}'.encode("utf-16")) == ["large"]
    assert models(f'{{"messages": {messages}}}'.encode()) == [""]
    [act] = recorder.rest(
        "POST", "/v1/chat/completions", headers, f'{{"model": "a", "messages": {messages}, "n": "7"}}'.encode()
    )
    assert act.n == 7, "a text that pydantic takes for a number"
