from __future__ import annotations

import string
import struct
import types
import typing
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from clusterray.wire import protocol
from clusterray.wire.protocol import (
    MAX_FRAME_BYTES,
    MAX_HELLO_BYTES,
    MESSAGE_TYPES,
    AnyMessage,
    Beat,
    Entry,
    FrameDecoder,
    Hello,
    Manifest,
    Message,
    ProtocolError,
    RectTuple,
    Submit,
    encode,
)

# ---------------------------------------------------------------- messages made of their own types

letters = st.characters(exclude_categories=["Cs"])
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(letters, max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(letters, max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMED = {
    protocol.Ident: string.ascii_letters + string.digits + "_.-",
    protocol.Sha256: "0123456789abcdef",
}


def values(kind: Any, meta: Meta | None = None) -> st.SearchStrategy[Any]:
    """What msgspec accepts for a field of type ``kind``."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is protocol.Sha256:
        return st.text(NAMED[kind], min_size=64, max_size=64)
    if kind is protocol.Ident:
        return st.text(NAMED[kind], min_size=1, max_size=64)
    if origin is Annotated:
        return values(arguments[0], next(a for a in arguments[1:] if isinstance(a, Meta)))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (types.UnionType, typing.Union):
        return st.one_of([values(each) for each in arguments])
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin is list:
        longest = meta.max_length if meta is not None and meta.max_length is not None else 3
        return st.lists(values(arguments[0]), max_size=min(3, longest))
    if origin is dict:
        held = json_values if arguments[1] is Any else values(arguments[1])
        keys = st.text(letters, max_size=8) if arguments[0] is str else values(arguments[0])
        return st.dictionaries(keys, held, max_size=4)
    return plain_values(kind, meta or Meta())


def plain_values(kind: Any, meta: Meta) -> st.SearchStrategy[Any]:
    if kind is str:
        longest = meta.max_length if meta.max_length is not None else 40
        sizes = {"min_size": meta.min_length or 0, "max_size": min(longest, 40)}
        usual = st.text(letters, **sizes)
        return usual | st.just("x" * longest) if longest <= 300 else usual
    if kind is int:
        low = meta.ge if meta.ge is not None else -(2**53)
        return st.integers(int(low), int(meta.le if meta.le is not None else 2**53))
    if kind is float:
        return st.floats(meta.ge, meta.le, allow_nan=False, allow_infinity=False)
    if kind is bool:
        return st.booleans()
    if kind is bytes:
        return st.binary(max_size=40) | st.just(b"x" * (meta.max_length or 40))
    if kind is type(None):
        return st.none()
    assert issubclass(kind, msgspec.Struct), kind
    return st.builds(kind, **{name: values(hint) for name, hint in fields_of(kind).items()})


def fields_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {name: hints[name] for name in kind.__struct_fields__}


any_message: st.SearchStrategy[AnyMessage] = st.sampled_from(MESSAGE_TYPES).flatmap(values)


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def tag(kind: type[Message]) -> str:
    return str(kind.__struct_config__.tag)


def decoded(data: bytes) -> list[AnyMessage]:
    return FrameDecoder(MAX_FRAME_BYTES).feed(data)


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("kind", MESSAGE_TYPES, ids=tag)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_message_round_trips(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(values(kind))
    assert decoded(encode(message)) == [message]


def test_no_message_is_left_out_and_no_tag_is_used_twice() -> None:
    defined = {
        each
        for each in vars(protocol).values()
        if isinstance(each, type) and issubclass(each, Message) and each is not Message
    }
    assert set(MESSAGE_TYPES) == defined
    assert len({tag(kind) for kind in MESSAGE_TYPES}) == len(defined)


@settings(max_examples=40, deadline=None)
@given(messages=st.lists(any_message, max_size=4), data=st.data())
def test_bytes_in_any_pieces_give_the_same_messages(
    messages: list[AnyMessage], data: st.DataObject
) -> None:
    stream = b"".join(encode(message) for message in messages)
    decoder, found, at = FrameDecoder(MAX_FRAME_BYTES), [], 0
    while at < len(stream):
        step = data.draw(st.integers(1, 1 + len(stream) // 3))
        found += decoder.feed(stream[at : at + step])
        at += step
    assert found == messages


@settings(max_examples=20, deadline=None)
@given(message=any_message)
def test_byte_by_byte_gives_the_message_with_its_last_byte(message: AnyMessage) -> None:
    decoder = FrameDecoder(MAX_FRAME_BYTES)
    *before, last = encode(message)
    assert all(not decoder.feed(bytes([byte])) for byte in before)
    assert decoder.feed(bytes([last])) == [message]


# ---------------------------------------------------------------- strangers


@pytest.mark.parametrize("kind", MESSAGE_TYPES, ids=tag)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_unknown_keys_are_ignored(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(values(kind))
    fields = msgspec.json.decode(encode(message)[4:])
    fields |= {"of a later version": {"deep": [1]}, "": None}
    assert decoded(framed(msgspec.json.encode(fields))) == [message]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"beat"',
        b"{}",
        b'{"type":"unheard of"}',
        b'{"type":5}',
        b'{"type":"Beat"}',
        b'{"type":"beat"}{"type":"beat"}',
        b'{"type":"beat"} x',
        b'{"type":"drop","attempt":"a"}',
        b'{"type":"drop","attempt":"a b","reason":""}',
        b'{"type":"drop","attempt":"a\\n","reason":""}',
        b'{"type":"drop","attempt":"../a","reason":""}',
        b'{"type":"drop","attempt":"","reason":""}',
        b'{"type":"drop","attempt":["a"],"reason":""}',
        b'{"type":"drop","attempt":null,"reason":""}',
        b'{"type":"bye","reason":"\xff"}',
        b'{"type":"bye","reason":"","retry":1}',
        b'{"type":"ok","request":-1}',
        b'{"type":"ok","request":1.5}',
        b'{"type":"ok","request":true}',
        b'{"type":"ok","request":1e400}',
        b'{"type":"cancel","request":1,"job":"' + b"j" * 65 + b'"}',
        b"[" * 100_000,
        b'{"type":"submit","spec":' + b'{"a":' * 50_000,
    ],
)
def test_what_no_peer_of_ours_sends_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a message"):
        decoded(framed(body))


def limited_fields() -> list[tuple[type[Message], str, int]]:
    found = []
    for kind in MESSAGE_TYPES:
        for name, hint in fields_of(kind).items():
            metas = [a for a in get_args(hint) if isinstance(a, Meta) and a.max_length is not None]
            found += [
                (kind, name, meta.max_length or 0) for meta in metas if get_args(hint)[0] is str
            ]
    return found


@pytest.mark.parametrize(
    ("kind", "name", "limit"),
    limited_fields(),
    ids=lambda each: getattr(each, "__name__", str(each)),
)
@settings(max_examples=1, deadline=None)
@given(data=st.data())
def test_a_text_over_its_limit_is_refused(
    kind: type[Message], name: str, limit: int, data: st.DataObject
) -> None:
    message = data.draw(values(kind))
    fields = msgspec.json.decode(encode(message)[4:])
    fields[name] = "x" * limit
    assert getattr(decoded(framed(msgspec.json.encode(fields)))[0], name) == "x" * limit
    fields[name] += "x"
    with pytest.raises(ProtocolError, match="not a message"):
        decoded(framed(msgspec.json.encode(fields)))


def bounds(kind: Any, path: str) -> list[str]:
    """Name the strings, numbers and lists below ``kind`` that have no upper limit."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        meta = next(a for a in arguments[1:] if isinstance(a, Meta))
        limited = meta.max_length is not None or meta.le is not None or meta.pattern is not None
        inner = get_args(arguments[0])
        below = [line for each in inner for line in bounds(each, path)]
        return below if limited else [path, *below]
    if origin in (types.UnionType, typing.Union, tuple, dict):
        return [line for each in arguments for line in bounds(each, path) if origin is not dict]
    if kind is str or origin is list:
        return [path]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = fields_of(kind)
        return [line for name, hint in hints.items() for line in bounds(hint, f"{path}.{name}")]
    return []


def test_every_text_and_list_that_a_stranger_can_send_has_a_limit() -> None:
    from_peers = {*get_args(protocol.FromNode), *get_args(protocol.FromClient)}
    assert not [line for kind in from_peers for line in bounds(kind, tag(kind))]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_raises_nothing_but_protocol_errors(data: bytes) -> None:
    for stream in (data, framed(data), framed(b'{"type":' + data)):
        try:
            decoded(stream)
        except ProtocolError as error:
            assert "message" in str(error) or "limit" in str(error)


@settings(max_examples=150, deadline=None)
@given(message=any_message, data=st.data())
def test_a_damaged_frame_raises_nothing_but_protocol_errors(
    message: AnyMessage, data: st.DataObject
) -> None:
    frame = bytearray(encode(message))
    at = data.draw(st.integers(4, len(frame) - 1))
    frame[at] = data.draw(st.integers(0, 255))
    try:
        found = decoded(bytes(frame))
    except ProtocolError:
        return
    assert len(found) == 1


# ---------------------------------------------------------------- limits of a frame


def test_a_frame_over_the_limit_is_refused_by_its_length_alone() -> None:
    with pytest.raises(ProtocolError, match=f"over the limit {MAX_HELLO_BYTES}"):
        FrameDecoder().feed(struct.pack(">I", MAX_HELLO_BYTES + 1))
    assert FrameDecoder(MAX_FRAME_BYTES).feed(struct.pack(">I", MAX_FRAME_BYTES)) == []
    with pytest.raises(ProtocolError, match=f"over the limit {MAX_FRAME_BYTES}"):
        FrameDecoder(MAX_FRAME_BYTES).feed(b"\xff\xff\xff\xff")


def test_the_limit_may_be_raised_between_two_frames() -> None:
    decoder = FrameDecoder(100)
    assert decoder.feed(encode(Beat())) == [Beat()]
    decoder.limit = MAX_FRAME_BYTES
    large = Submit(
        request=1, key="k", scene="0" * 64, spec={"a": "x" * 500_000}, output_name="a.png"
    )
    assert decoder.feed(encode(large)) == [large]


def test_a_message_no_peer_would_take_is_not_sent() -> None:
    entry = Entry(path="p" * 4096, mode=0o644, size=1, sha256="0" * 64)
    with pytest.raises(ProtocolError, match=r"Manifest of \d+ bytes is over the limit"):
        encode(Manifest(request=1, part=0, entries=[entry] * 300))


def test_a_hello_holds_what_is_needed_before_trust() -> None:
    (hello,) = decoded(
        framed(
            b'{"type":"hello","role":"submit","protocol":[1,1],"secret":"s","uuid":"u",'
            b'"name":"n","version":"0"}'
        )
    )
    assert isinstance(hello, Hello)
    assert (hello.role, hello.protocol, hello.node) == ("submit", (1, 1), None)
    assert get_args(RectTuple) == (protocol.Pixel,) * 4
