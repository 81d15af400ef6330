"""Both frame twins are one kernel: same tables, names and signatures; each stands alone; chance finds no difference."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from frame_cases import ALL_COMMANDS, BAD, GOOD, attributes, byte_by_byte, make_parser, read_all
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twins import load_twin

from radiator.errors import ProtocolError
from radiator.stomp import frame_pure, grammar

VERSIONS = (0, 10, 11, 12)
FEW = settings(max_examples=150, deadline=None)


def octets(size: int) -> st.SearchStrategy[bytes]:
    """Up to `size` bytes. Not st.binary: Hypothesis compares those with numbers, which python -bb forbids."""
    return st.lists(st.integers(0, 255), max_size=size).map(bytes)


# Bytes that mean something to a parser, more often than chance would have them.
PIECES = (
    *(b"\0", b"\n", b"\r", b":", b"\\", b"\\n", b"\\c", b"\\r", b"\\\\", b"\\t", b" ", b"a", b"\xff", b"\xe2\x82\xac"),
    *(b"SEND\n", b"MESSAGE\r\n", b"ACK\n", b"CONNECT\n", b"ERROR\n", b"\n\n", b"\r\n\r\n", b"\n\0", b"\n\n\0"),
    *(b"receipt:1\n", b"destination:/q\n", b"content-length:2\n", b"content-length:999999\n", b"dead-letter-a:\n"),
    *(b"x" * 40, b"receipt", b"content-length:"),
)
noise = st.lists(st.sampled_from(PIECES) | octets(6), max_size=24).map(b"".join)
frames = st.sampled_from([case.wire for case in GOOD.values()] + [case.wire for case in BAD.values()])
streams = st.lists(frames | noise, max_size=5).map(b"".join)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
values = texts | st.text(":\\\r\n \tab", max_size=8)


@pytest.fixture(scope="session")
def compiled() -> ModuleType:
    return load_twin("radiator.stomp.frame_pure", "radiator._speedups.frame", "compiled")


@pytest.fixture(scope="session", params=["pure to compiled", "compiled to pure"])
def crossed(request: pytest.FixtureRequest, compiled: ModuleType) -> tuple[Any, Any]:
    """The twin that encodes and the twin that decodes."""
    return (frame_pure, compiled) if request.param == "pure to compiled" else (compiled, frame_pure)


def cut(wire: bytes, places: list[int]) -> list[bytes]:
    """`wire` in pieces."""
    ends = sorted({place % (len(wire) + 1) for place in places} | {len(wire)})
    return [wire[first:last] for first, last in zip([0, *ends], ends, strict=False)]


def raised(call: Any, *arguments: Any) -> Any:
    """What a call returns, or the kind and text of what it raises."""
    try:
        return call(*arguments)
    except (ProtocolError, RuntimeError, ValueError) as error:
        return type(error), str(error)


# ------------------------------------------------------------------------------------------------------- one surface


@pytest.mark.parametrize(
    "name",
    [
        "CLIENT_COMMANDS",
        "BODY_COMMANDS",
        "BLOCK_COMMANDS",
        "CONNECT_COMMANDS",
        "HIDDEN_HEADERS",
        "HIDDEN_PREFIX",
        "KNOWN_HEADERS",
    ],
)
def test_the_tables_are_those_of_the_grammar(compiled: ModuleType, name: str) -> None:
    assert getattr(compiled, name) == getattr(grammar, name)


def test_the_names_are_the_same(compiled: ModuleType) -> None:
    assert compiled.__all__ == frame_pure.__all__


@pytest.mark.parametrize("name", frame_pure.__all__)
def test_the_parameters_are_the_same(compiled: ModuleType, name: str) -> None:
    pure = list(inspect.signature(getattr(frame_pure, name)).parameters)
    if inspect.isclass(getattr(frame_pure, name)):  # a compiled class tells its parameters in its docstring only
        signature = getattr(compiled, name).__doc__.partition("(")[2].partition(")")[0]
        assert re.findall(r"(\w+)(?:=[^,]*)?(?:, |$)", signature) == pure
    else:
        assert list(inspect.signature(getattr(compiled, name)).parameters) == pure


@pytest.mark.parametrize("name", ["Frame", "Parser"])
def test_the_classes_show_the_same(compiled: ModuleType, name: str) -> None:
    def public(twin: Any) -> set[str]:
        return {each for each in dir(getattr(twin, name)) if not each.startswith("_")}

    assert public(compiled) == public(frame_pure)


@pytest.mark.parametrize("name", frame_pure.__all__)
def test_the_docstrings_are_the_same(compiled: ModuleType, name: str) -> None:
    pure = inspect.cleandoc(getattr(frame_pure, name).__doc__)
    assert inspect.cleandoc(getattr(compiled, name).__doc__).endswith(pure)


def test_the_compiled_twin_stands_alone(compiled: ModuleType) -> None:
    blocked = ("radiator.stomp.frame_pure", "radiator.stomp.grammar", "radiator.stomp.frame")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from radiator._speedups import frame\n"
        "parser = frame.Parser(max_frame=99, max_headers=9, max_header_line=9)\n"
        "parser.receive_data(b'CONNECT\\n\\n\\0')\n"
        "assert parser.next_frame().command == 'CONNECT'\n"
    )
    root = str(Path(sys.modules["radiator"].__file__ or "").parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "RADIATOR_SPEEDUPS": "off"}
    subprocess.run([sys.executable, "-Wdefault", "-c", code], check=True, env=environment, timeout=30)


# ------------------------------------------------------------------------------------------------------------- chance


@FEW
@given(wire=streams, version=st.sampled_from(VERSIONS), places=st.lists(st.integers(0, 4000), max_size=6))
@example(wire=b"SEND\n\n" + b"x" * 5000, version=12, places=[4095, 4096, 4097])
def test_slicing_changes_nothing(frame_twin: Any, wire: bytes, version: int, places: list[int]) -> None:
    parsers = [make_parser(frame_twin, version) for _ in range(3)]
    whole = read_all(parsers[0], [wire])
    assert read_all(parsers[1], cut(wire, places)) == whole
    assert read_all(parsers[2], byte_by_byte(wire)) == whole
    assert len({(parser.buffered, parser.mid_frame, parser.failed_receipt) for parser in parsers}) == 1


@FEW
@given(wire=octets(200), version=st.sampled_from(VERSIONS))
def test_bytes_of_any_kind_raise_nothing_else(frame_twin: Any, wire: bytes, version: int) -> None:
    for start in (b"", b"SEND\n", b"SEND\na:", b"SEND\n\n", b"SEND\ncontent-length:"):
        read_all(make_parser(frame_twin, version), [start + wire])


operations = st.lists(
    st.tuples(st.just("receive"), streams | noise)
    | st.tuples(st.just("next"), st.integers(1, 4))
    | st.tuples(st.sampled_from(["unread", "clear"]), st.none())
    | st.tuples(st.just("version"), st.sampled_from(VERSIONS)),
    max_size=20,
)
limits = st.fixed_dictionaries(
    {"max_frame": st.integers(1, 120), "max_headers": st.integers(0, 4), "max_header_line": st.integers(0, 50)}
) | st.just({})


@settings(max_examples=400, deadline=None)
@given(steps=operations, bounds=limits)
def test_both_twins_go_the_same_way(compiled: ModuleType, steps: list[tuple[str, Any]], bounds: dict[str, int]) -> None:
    parsers = [make_parser(twin, **bounds) for twin in (frame_pure, compiled)]
    for step, argument in steps:
        for _ in range(argument if step == "next" else 1):
            answers = []
            for parser in parsers:
                if step == "receive":
                    answer = parser.receive_data(argument)
                elif step == "version":
                    answer = setattr(parser, "version", argument)
                else:
                    answer = raised(getattr(parser, "next_frame" if step == "next" else step))
                    if answer is not None and not isinstance(answer, tuple):
                        answer = attributes(answer)
                answers.append((answer, parser.buffered, parser.mid_frame, parser.version, parser.failed_receipt))
            assert answers[0] == answers[1], step


@FEW
@given(
    data=st.data(),
    case=st.sampled_from(list(GOOD.values())),
    version=st.sampled_from(VERSIONS),
)
def test_a_damaged_frame_reads_the_same_on_both(compiled: ModuleType, data: Any, case: Any, version: int) -> None:
    wire = bytearray(case.wire)
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    pure, other = make_parser(frame_pure, version), make_parser(compiled, version)
    assert read_all(pure, [bytes(wire)]) == read_all(other, [bytes(wire)])
    assert (pure.buffered, pure.mid_frame) == (other.buffered, other.mid_frame)
    assert pure.failed_receipt == other.failed_receipt


def test_every_bit_of_every_frame(compiled: ModuleType) -> None:
    for case in GOOD.values():
        for bit in range(min(len(case.wire), 120) * 8):
            wire = bytearray(case.wire)
            wire[bit // 8] ^= 1 << bit % 8
            pure, other = make_parser(frame_pure, case.version), make_parser(compiled, case.version)
            assert read_all(pure, [bytes(wire)]) == read_all(other, [bytes(wire)]), bytes(wire)
            assert pure.failed_receipt == other.failed_receipt, bytes(wire)


# ------------------------------------------------------------------------------------------------------ cross and back


@FEW
@given(
    headers=st.lists(st.tuples(texts.filter(bool), values), max_size=5),
    body=octets(50),
    version=st.sampled_from((11, 12)),
    command=st.sampled_from(["SEND", "MESSAGE", "ERROR"]),
)
def test_what_one_encodes_the_other_reads(
    crossed: tuple[Any, Any], headers: list[tuple[str, str]], body: bytes, version: int, command: str
) -> None:
    encoder, decoder = crossed
    headers = [(name, value) for name, value in headers if name != "content-length"]
    headers.append(("content-length", str(len(body))))
    wire = encoder.encode_frame(command, headers, body, version)
    read, text = read_all(make_parser(decoder, version, max_header_line=1000), [wire])
    assert text is None
    assert read[0] is not None
    first = {}
    for name, value in headers:
        first.setdefault(name, value)
    assert (read[0][0], read[0][1], read[0][3]) == (command, first, body)


@FEW
@given(
    headers=st.lists(st.tuples(texts.filter(bool), values), max_size=5),
    source=st.sampled_from((11, 12)),
    target=st.sampled_from((11, 12)),
)
def test_a_translated_block_says_the_same(
    crossed: tuple[Any, Any], headers: list[tuple[str, str]], source: int, target: int
) -> None:
    sender, receiver = crossed
    block = b"".join(
        sender.escape(name, source) + b":" + sender.escape(value, source) + b"\n" for name, value in headers
    )
    translated = sender.translate_block(block, source, target)
    lines = translated.split(b"\n")[:-1]
    assert [tuple(receiver.unescape(part, target) for part in line.split(b":")) for line in lines] == headers
    assert receiver.translate_block(translated, target, source) == block


@FEW
@given(block=noise, source=st.sampled_from(VERSIONS), target=st.sampled_from(VERSIONS))
def test_any_block_is_translated_alike(compiled: ModuleType, block: bytes, source: int, target: int) -> None:
    pure = raised(frame_pure.translate_block, block, source, target)
    assert raised(compiled.translate_block, block, source, target) == pure


@FEW
@given(value=values, wire=noise, version=st.sampled_from(VERSIONS))
def test_escapes_are_alike(compiled: ModuleType, value: str, wire: bytes, version: int) -> None:
    assert compiled.escape(value, version) == frame_pure.escape(value, version)
    assert raised(compiled.unescape, wire, version) == raised(frame_pure.unescape, wire, version)


@FEW
@given(
    headers=st.lists(st.tuples(values, values), max_size=4),
    body=octets(20),
    version=st.sampled_from(VERSIONS),
    command=st.sampled_from(sorted(ALL_COMMANDS)),
)
def test_frames_are_encoded_alike(
    compiled: ModuleType, headers: list[tuple[str, str]], body: bytes, version: int, command: str
) -> None:
    pure = frame_pure.encode_frame(command, headers, body, version)
    assert compiled.encode_frame(command, headers, body, version) == pure


@FEW
@given(
    subscription=st.none() | octets(9),
    numbers=st.tuples(*[st.integers(0, 2**64 - 1)] * 4),
    block=octets(30),
    body=octets(30),
)
def test_messages_are_encoded_alike(
    compiled: ModuleType, subscription: bytes | None, numbers: tuple[int, int, int, int], block: bytes, body: bytes
) -> None:
    queue, id, ack, deliveries = numbers
    pure = frame_pure.encode_message(subscription, queue, id, ack, deliveries, block, body)
    assert compiled.encode_message(subscription, queue, id, ack, deliveries, block, body) == pure
    assert compiled.encode_receipt(block) == frame_pure.encode_receipt(block)
