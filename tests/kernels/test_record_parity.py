"""The record twins beside each other: the same calls give the same bytes, and each reads what the other wrote."""

from __future__ import annotations

import importlib
import subprocess
import sys
from inspect import cleandoc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_cases import ADDRESS, STORE_ID, message_fields

from radiator.message import Message

pure = importlib.import_module("radiator.store.file.record_pure")
compiled = pytest.importorskip("radiator._speedups.record", exc_type=ImportError)

U32 = st.integers(-1, 1 << 32)
U64 = st.one_of(st.integers(-1, 40), st.integers(0, 1 << 64))
NAMES = st.text(max_size=12)
MESSAGES = st.builds(
    Message,
    st.sampled_from([10, 11, 12, 256]),
    st.booleans(),
    st.binary(max_size=30),
    st.binary(max_size=300),
    U64,
    U64,
    U64,
    st.integers(0, 256),
    st.integers(0, 70_000),
)
CALLS = st.one_of(
    st.tuples(st.just("put"), MESSAGES, st.lists(st.tuples(U32, U64), max_size=4)),
    st.tuples(st.just("settle"), st.integers(1, 3), st.integers(1, 12), st.integers(0, 2)),
    st.tuples(st.just("settle"), U32, U64, st.integers(-1, 256)),
    st.tuples(st.just("flush_settled")),
    st.tuples(st.just("define"), U32, NAMES),
    st.tuples(st.just("drop"), U32),
    st.tuples(st.just("next_queue"), U32),
    st.tuples(st.just("state"), U32, NAMES, U64, U64, st.lists(st.tuples(U64, U64), max_size=3)),
    st.tuples(st.just("counts"), U32, st.lists(st.tuples(U64, U32), max_size=3)),
    st.tuples(st.just("segment"), U32, U64),
    st.tuples(st.just("finish"), U64, U64, st.booleans()),
    st.tuples(st.just("clear")),
)


def call(writer: Any, name: str, arguments: tuple[Any, ...]) -> Any:
    """What a call gives, or the class and text of its error."""
    try:
        result = getattr(writer, name)(*arguments)
    except (OverflowError, ValueError) as error:
        return type(error), str(error)
    return bytes(result) if isinstance(result, memoryview) else result


@given(calls=st.lists(CALLS, max_size=20))
@settings(max_examples=300, deadline=None)
def test_the_same_calls_give_the_same_bytes(calls: list[tuple[Any, ...]]) -> None:
    writers = (pure.BatchWriter(STORE_ID), compiled.BatchWriter(STORE_ID))
    for name, *arguments in calls:
        results = [call(writer, name, tuple(arguments)) for writer in writers]
        assert results[0] == results[1]
        states = [(writer.size, writer.records, writer.empty) for writer in writers]
        assert states[0] == states[1]


@given(
    messages=st.lists(
        st.tuples(st.binary(max_size=40), st.binary(max_size=600), st.integers(1, 4)), min_size=1, max_size=8
    )
)
@settings(max_examples=100, deadline=None)
def test_each_twin_reads_what_the_other_wrote(messages: list[tuple[bytes, bytes, int]]) -> None:
    for writing, reading in ((pure, compiled), (compiled, pure)):
        writer = writing.BatchWriter(STORE_ID)
        for id, (block, body, count) in enumerate(messages):
            writer.put(Message(11, bool(id % 2), block, body, id), [(queue, id) for queue in range(count)])
        batch = writer.finish(ADDRESS, 5)
        events = reading.decode_batch(batch, ADDRESS, STORE_ID, True)
        assert events == writing.decode_batch(batch, ADDRESS, STORE_ID, True)
        for _, queue, id, place, length, *_ in events:
            message, read = reading.decode_message(batch, place - ADDRESS)
            assert read == length
            assert (message.block, message.body) == messages[id][:2]
            assert message_fields(message) == message_fields(writing.decode_message(batch, place - ADDRESS)[0])
            assert (queue, id) in reading.decode_references(batch, place - ADDRESS)
        assert reading.decode_batch_header(batch, ADDRESS, STORE_ID) == writing.decode_batch_header(
            batch, ADDRESS, STORE_ID
        )
        block_bytes = writing.encode_segment_header(STORE_ID, 3, 4, 5)
        assert block_bytes == reading.encode_segment_header(STORE_ID, 3, 4, 5)
        assert tuple(reading.decode_segment_header(block_bytes)) == tuple(writing.decode_segment_header(block_bytes))


def test_both_twins_have_the_same_public_names() -> None:
    for name in pure.__all__:
        ours, theirs = getattr(pure, name), getattr(compiled, name)
        assert ours == theirs or (callable(ours) and callable(theirs)), name
        if callable(ours):
            assert cleandoc(ours.__doc__) == cleandoc(theirs.__doc__) or hasattr(ours, "_fields"), name
    assert pure.BatchHeader._fields == compiled.BatchHeader._fields
    assert pure.SegmentHeader._fields == compiled.SegmentHeader._fields
    methods = [name for name in vars(pure.BatchWriter) if not name.startswith("_")]
    for name in methods:
        assert hasattr(compiled.BatchWriter, name), name


@pytest.mark.parametrize("kernel", ["record", "index"])
def test_the_compiled_twin_needs_no_pure_one(kernel: str) -> None:
    code = (
        f"import sys; sys.modules['radiator.store.file.{kernel}_pure'] = None; "
        f"import radiator._speedups.{kernel} as twin; print(twin.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"radiator._speedups.{kernel}"
