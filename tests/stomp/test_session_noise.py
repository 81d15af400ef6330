"""Whatever bytes come, in whatever slices: no exception, at most one ERROR, and that is the end."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from stomp_fakes import FakeBroker, Talk
from stomp_house import House

COMMANDS = ["SEND", "SUBSCRIBE", "UNSUBSCRIBE", "ACK", "NACK", "BEGIN", "COMMIT", "ABORT", "DISCONNECT"]
STRANGERS = ["CONNECT", "STOMP", "MESSAGE"]
HEADERS = [
    *("destination:/queue/one", "destination:/queue/memory", "destination:/topic/chat", "destination:/fanout/both"),
    *("id:1", "id:2", "ack:client", "ack:auto", "transaction:t", "receipt:r", "subscription:1", "message-id:1-1"),
    *("content-length:3", "content-length:9", "prefetch-count:2", "requeue:false", "x:a\\cb", "x:\\", "\u00e4:\u00f6"),
]

bits = st.one_of(
    st.sampled_from([(line + "\n").encode() for line in COMMANDS + STRANGERS + HEADERS]),
    st.sampled_from([b"\n\0", b"\nbody\0", b"\n", b"\r\n", b"\0", b"CONNECT\naccept-version:1.2\n\n\0"]),
    st.binary(max_size=5),
)

frames = st.builds(
    lambda command, headers, body: (command + "\n" + "".join(f"{line}\n" for line in headers) + "\n" + body).encode(),
    st.sampled_from(COMMANDS),
    st.lists(st.sampled_from(HEADERS), max_size=6, unique=True),
    st.sampled_from(["\0", "abc\0", "\0\n"]),
)


def pieces(data, cuts):
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def check_the_end(talk, frames):
    errors = [frame for frame in frames if frame.command == "ERROR"]
    assert len(errors) <= 1
    if errors:
        assert frames[-1] is errors[0]
        assert talk.session.closing
    assert all(frame.command in ("CONNECTED", "MESSAGE", "RECEIPT", "ERROR") for frame in frames)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(bits, max_size=30), st.lists(st.integers(0, 10_000), max_size=6), st.sampled_from(["1.0", "1.1", "1.2"])
)
def test_noise_is_answered_the_same_in_any_slices(parts, cuts, version):
    data = b"".join(parts)
    whole, sliced = (Talk(FakeBroker(), version=version) for _ in range(2))
    whole.tell(data)
    expected = whole.frames()
    check_the_end(whole, expected)
    got = []
    for piece in pieces(data, cuts):
        sliced.tell(piece)
        got += sliced.frames()
    assert [(frame.command, frame.headers) for frame in got] == [(frame.command, frame.headers) for frame in expected]
    assert sliced.client.calls == whole.client.calls


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=60))
def test_noise_before_connect(data):
    talk = Talk()
    talk.tell(data)
    check_the_end(talk, talk.frames())


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 2), frames), max_size=12), st.sampled_from(["1.0", "1.1", "1.2"]))
def test_any_frames_of_three_clients_end_well(steps, version):
    house = House(slow=True)
    talks = [house.talk(version) for _ in range(3)]
    said = [[] for _ in talks]
    for number, data in steps:
        talks[number].tell(data)
        for talk, frames_said in zip(talks, said, strict=True):
            frames_said += talk.frames()
    house.disk()
    for talk, frames_said in zip(talks, said, strict=True):
        frames_said += talk.frames()
        check_the_end(talk, frames_said)
        talk.session.connection_lost()
    house.turn()
    house.disk()
    for queue in house.broker.queues.values():
        assert queue.handle.in_flight == 0
