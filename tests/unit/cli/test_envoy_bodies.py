"""`envoy config` buffers bodies exactly where a protocol's table says that the answer needs them."""

import pytest

from ext_authz.cli.envoy import _buffered
from ext_authz.mappers.adapter import GRPC, Reads
from ext_authz.mappers.protocols import ADAPTERS, PROTOCOLS


@pytest.mark.parametrize(
    "adapter", [each for each in ADAPTERS if not each.name.startswith("s3")], ids=lambda each: each.name
)
def test_every_call_whose_meaning_is_in_the_body_is_buffered(adapter):
    paths, services, streams = _buffered([adapter])
    for row in adapter.rows:
        if row.place.reads is Reads.MEANING and row.method != GRPC:
            assert row.template.startswith(paths), row.template
        elif row.place.reads is Reads.MEANING and adapter.name != "open-inference":
            assert row.template[1:].partition("/")[0] in services
            assert row.template not in streams


def test_streams_of_a_buffered_service_are_not_buffered():
    _, services, streams = _buffered([PROTOCOLS["torchserve"]])
    assert "org.pytorch.serve.grpc.inference.InferenceAPIsService" in services
    assert streams == ("/org.pytorch.serve.grpc.inference.InferenceAPIsService/StreamPredictions2",)


def test_objects_and_paths_that_name_the_model_stream_through():
    assert _buffered([PROTOCOLS["s3"]]) == ((), (), ())
    assert _buffered([PROTOCOLS["bedrock"]]) == ((), (), ())
    paths, _, _ = _buffered([PROTOCOLS["kserve-v1"]])
    assert paths == ("/v1/timeseries/forecast",)


def test_the_forms_of_openai_and_kserves_prefix_are_buffered():
    paths, _, _ = _buffered([PROTOCOLS["openai"]])
    assert "/v1/audio/transcriptions" in paths
    assert "/openai/v1/chat/completions" in paths
