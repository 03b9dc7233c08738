"""Prints, as JSON, the messages, enums and services of protobuf files: ours, a real Envoy's, or xds-protos'.

Run in a process of its own: the slim and the full description of one protobuf package cannot be loaded together.

    python descriptor_facts.py ours | envoy BINARY | modules FOLDER
"""

import importlib
import json
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

FILES = (
    "envoy/service/auth/v3/external_auth.proto",
    "envoy/service/auth/v3/attribute_context.proto",
    "envoy/config/core/v3/base.proto",
    "envoy/config/core/v3/address.proto",
    "envoy/type/v3/http_status.proto",
    "google/rpc/status.proto",
)
OURS = ("ext_authz._pb.core_pb2", "ext_authz._pb.http_status_pb2", "ext_authz._pb.external_auth_pb2")

# The fields of FileDescriptorProto that protoc writes, by wire tag.
_DELIMITED = {0x12, 0x1A, 0x22, 0x2A, 0x32, 0x3A, 0x42}
_SYNTAX = 0x62
_VARINTS = {0x50, 0x58}
_SCALARS = {
    1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 6: "fixed64", 7: "fixed32", 8: "bool", 9: "string",
    10: "group", 11: "message", 12: "bytes", 13: "uint32", 14: "enum", 15: "sfixed32", 16: "sfixed64", 17: "sint32",
    18: "sint64",
}  # fmt: skip
_LABELS = {1: "optional", 2: "required", 3: "repeated"}


def facts(files: Iterator[descriptor_pb2.FileDescriptorProto]) -> dict[str, Any]:
    found: dict[str, Any] = {"messages": {}, "enums": {}, "services": {}}
    for file in files:
        for message in file.message_type:
            _message(f"{file.package}.{message.name}", message, found)
        for enum in file.enum_type:
            found["enums"][f"{file.package}.{enum.name}"] = {value.name: value.number for value in enum.value}
        for service in file.service:
            methods = {m.name: [m.input_type, m.output_type] for m in service.method}
            found["services"][f"{file.package}.{service.name}"] = methods
    return found


def _message(name: str, message: descriptor_pb2.DescriptorProto, found: dict[str, Any]) -> None:
    found["messages"][name] = {
        field.name: {
            "number": field.number,
            "type": _SCALARS[field.type],
            "label": _LABELS[field.label],
            "of": field.type_name,
            "oneof": message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else "",
        }
        for field in message.field
    }
    for enum in message.enum_type:
        found["enums"][f"{name}.{enum.name}"] = {value.name: value.number for value in enum.value}
    for nested in message.nested_type:
        _message(f"{name}.{nested.name}", nested, found)


def from_modules(names: tuple[str, ...]) -> Iterator[descriptor_pb2.FileDescriptorProto]:
    for name in names:
        file = descriptor_pb2.FileDescriptorProto()
        importlib.import_module(name).DESCRIPTOR.CopyToProto(file)
        yield file


def from_binary(path: Path) -> Iterator[descriptor_pb2.FileDescriptorProto]:
    """Find the descriptors that protoc's C++ code carries: serialized, uncompressed, without a length."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        for name in FILES:
            start = image.find(b"\n" + bytes([len(name)]) + name.encode() + b"\x12")
            if start < 0:
                raise SystemExit(f"no descriptor of {name} in {path}")
            found = descriptor_pb2.FileDescriptorProto()
            found.ParseFromString(image[start : _end(image, start + 2 + len(name))])
            yield found


def _end(image: mmap.mmap, at: int) -> int:
    while True:
        tag = image[at]
        if tag in _DELIMITED or tag == _SYNTAX:
            length, after = _varint(image, at + 1)
            at = after + length
            if tag == _SYNTAX:
                return at
        elif tag in _VARINTS:
            _, at = _varint(image, at + 1)
        else:
            return at


def _varint(image: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = image[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def main(kind: str, *where: str) -> None:
    if kind == "ours":
        found = facts(from_modules(OURS))
    elif kind == "envoy":
        found = facts(from_binary(Path(where[0])))
    else:
        sys.path.insert(0, where[0])
        found = facts(from_modules(tuple(name.removesuffix(".proto").replace("/", ".") + "_pb2" for name in FILES)))
    json.dump(found, sys.stdout, indent=1, sort_keys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
