"""`scan_batch`: what `decode_batch` says, with plain messages packed for the index."""

from __future__ import annotations

from struct import Struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_cases import ADDRESS, STORE_ID, head, sealed
from twins import load_twin

from radiator.errors import CorruptRecord
from radiator.message import Message

PLACE = Struct("<QQIHH")
PLAIN = Message(12, True, b"destination:/queue/a\n", b"hello", arrival_ms=1, deliveries=3)
LATE = Message(12, True, b"", b"x", expires_ms=5)
LATER = Message(12, True, b"", b"x", not_before_ms=5)


def unpacked(twin: Any, events: list[Any]) -> list[Any]:
    """Packed messages as the events that `decode_batch` has for them."""
    found: list[Any] = []
    for event in events:
        if event[0] != twin.PLACES:
            found.append(event)
            continue
        for id, address, length, deliveries, zero in PLACE.iter_unpack(event[2]):
            assert zero == 0
            found.append((twin.PUT, event[1], id, address, length, deliveries, 0, 0))
    return found


def test_plain_messages_of_a_queue_are_one_event(record_twin: Any) -> None:
    writer = record_twin.BatchWriter(STORE_ID)
    for id in (4, 5, 9):
        writer.put(PLAIN, [(7, id)])
    batch = writer.finish(ADDRESS, 0)
    [event] = record_twin.scan_batch(batch, ADDRESS, STORE_ID, True)
    assert event[:2] == (record_twin.PLACES, 7)
    length = 72 + 32
    assert list(PLACE.iter_unpack(event[2])) == [
        (id, ADDRESS + 64 + at * length, length, 3, 0) for at, id in enumerate((4, 5, 9))
    ]


def test_queues_that_take_turns_have_one_event_each(record_twin: Any) -> None:
    writer = record_twin.BatchWriter(STORE_ID)
    for id in range(1, 100):
        writer.put(PLAIN, [(9 - id % 3, id)])
    events = record_twin.scan_batch(writer.finish(ADDRESS, 0), ADDRESS, STORE_ID, False)
    assert [event[:2] for event in events] == [(record_twin.PLACES, queue) for queue in (7, 8, 9)]
    assert [place[0] for place in PLACE.iter_unpack(events[0][2])] == list(range(2, 100, 3))


def test_whatever_is_not_plain_stays_an_event_of_its_own(record_twin: Any) -> None:
    writer = record_twin.BatchWriter(STORE_ID)
    writer.put(PLAIN, [(1, 1)])
    writer.put(PLAIN, [(1, 2), (2, 1)])
    writer.put(LATE, [(1, 3)])
    writer.put(LATER, [(1, 4)])
    writer.put(PLAIN, [(1, 5)])
    writer.drop(2)
    writer.put(PLAIN, [(1, 6)])
    writer.settle(1, 1, 0)
    batch = writer.finish(ADDRESS, 0)
    events = record_twin.scan_batch(batch, ADDRESS, STORE_ID, True)
    kinds = ["PLACES", "PUT", "PUT", "PUT", "PUT", "PLACES", "DROP", "PLACES", "SETTLED"]
    assert [event[0] for event in events] == [getattr(record_twin, kind) for kind in kinds]
    assert unpacked(record_twin, events) == record_twin.decode_batch(batch, ADDRESS, STORE_ID, True)


def test_a_damaged_message_is_not_packed(record_twin: Any) -> None:
    writer = record_twin.BatchWriter(STORE_ID)
    for id in (1, 2, 3):
        writer.put(PLAIN, [(1, id)])
    batch = bytearray(writer.finish(ADDRESS, 0))
    batch[64 + 104 + 72] ^= 1
    with pytest.raises(CorruptRecord):
        record_twin.scan_batch(batch, ADDRESS, STORE_ID, True)
    damaged: list[Any] = []
    events = record_twin.scan_batch(batch, ADDRESS, STORE_ID, True, damaged)
    assert [event[2] for event in damaged] == [2]
    assert [event[0] for event in events] == [record_twin.PLACES, record_twin.PUT, record_twin.PLACES]
    assert events[1] == damaged[0]
    assert len(record_twin.scan_batch(batch, ADDRESS, STORE_ID, False)) == 1


def outcome(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except CorruptRecord as error:
        return str(error)


REFERENCES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 50)), min_size=1, max_size=2)
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from([PLAIN, PLAIN, PLAIN, LATE]), REFERENCES),
        st.tuples(st.just("drop"), st.integers(1, 4)),
        st.tuples(st.just("settle"), st.integers(1, 4), st.integers(1, 50), st.just(0)),
    ),
    max_size=30,
)


@given(calls=CALLS, flips=st.lists(st.tuples(st.integers(64, 2000), st.integers(1, 255)), max_size=2))
@settings(max_examples=150, deadline=None)
def test_twins_agree_and_say_what_decoding_says(calls: list[Any], flips: list[tuple[int, int]]) -> None:
    pure = load_twin("radiator.store.file.record_pure", "", "pure")
    compiled = load_twin("", "radiator._speedups.record", "compiled")
    writer = pure.BatchWriter(STORE_ID)
    for name, *rest in calls:
        getattr(writer, name)(*rest)
    batch = bytearray(writer.finish(ADDRESS, 0))
    for at, change in flips:
        batch[at] ^= change
    for payloads in (True, False):
        for aside in (False, True):
            lists: list[Any] = [[] if aside else None for _ in range(3)]
            found = outcome(pure.scan_batch, batch, ADDRESS, STORE_ID, payloads, lists[0])
            assert found == outcome(compiled.scan_batch, batch, ADDRESS, STORE_ID, payloads, lists[1])
            decoded = outcome(pure.decode_batch, batch, ADDRESS, STORE_ID, payloads, lists[2])
            assert lists[0] == lists[1] == lists[2]
            if isinstance(decoded, str):
                assert found == decoded
            else:
                # The order of different queues' messages is not kept, everything else is.
                assert sorted(map(repr, unpacked(pure, found))) == sorted(map(repr, decoded))
                for queue in range(1, 5):
                    told = [
                        [event for event in events if event[0] not in (pure.PUT,) or event[1] == queue]
                        for events in (unpacked(pure, found), decoded)
                    ]
                    assert told[0] == told[1]


def test_skipped_records_do_not_part_messages(record_twin: Any) -> None:
    plain = (1).to_bytes(8, "little") + bytes(16) + b"\0\0\0\x0c" + (1).to_bytes(4, "little")
    one, two = (plain + (3).to_bytes(4, "little") + id.to_bytes(8, "little") + bytes(4) for id in (1, 2))
    batch = sealed([(head(1, b"", 0, one), b""), (head(0x81, b"any", 0, b""), b"any"), (head(1, b"", 0, two), b"")])
    [event] = record_twin.scan_batch(batch, ADDRESS, STORE_ID, True)
    assert [place[0] for place in PLACE.iter_unpack(event[2])] == [1, 2]
