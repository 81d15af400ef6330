"""The contract on destinations: which there are, their bounds, fanouts, dead letters, restarts."""

from __future__ import annotations

import itertools
import shutil

import pytest
from contract_peer import House, house_of

CONFIG = """\
create: false
defaults: {persistent: false}
limits: {queues: 22}
destinations:
  /topic/nobody: {type: topic}
  /queue/count: {type: queue, persistent: false, max_messages: 3, overflow: reject}
  /queue/drop: {type: queue, persistent: false, max_messages: 3, overflow: drop-oldest}
  /queue/bytes: {type: queue, persistent: false, max_bytes: 4KiB, overflow: reject}
  /queue/bytes.drop: {type: queue, persistent: false, max_bytes: 4KiB, overflow: drop-oldest}
  orders: {type: queue}
  "topic by type": {type: topic}
  /topic/queue by type: {type: queue, persistent: false}
  /queue/exact.one: {type: queue, persistent: false, max_messages: 1}
  /queue/exact.*: {type: queue, persistent: false, max_messages: 2}
  /queue/*.one: {type: queue, persistent: false, max_messages: 3}
  /queue/*/deep: {type: queue, persistent: false}
  /fanout/all: {type: fanout, queues: [/queue/child.disk, /queue/child.memory, /queue/child.small]}
  /queue/child.memory: {type: queue, persistent: false}
  /queue/child.small: {type: queue, persistent: false, max_messages: 2}
  /fanout/disk: {type: fanout, queues: [/queue/disk.a, /queue/disk.b]}
  /queue/give.up: {type: queue, dead_letter: "dead letters: of \\\\ all"}
"""
COUNT = itertools.count()


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with house_of(tmp_path_factory.mktemp("queues"), CONFIG) as house:
        yield house


def drain(house, destination):
    """All bodies that a queue has ready, which are settled thereby."""
    with house.connect() as client:
        client.subscribe(destination, ack="auto")
        client.send("SEND", {"destination": destination}, b"the end")
        bodies = []
        while (body := client.message()["body"]) != "the end":
            bodies.append(body)
        return bodies


def test_overflow_reject_at_max_messages(house):
    with house.connect() as producer:
        producer.put("/queue/count", "a", "b", "c")
        producer.refused("SEND", {"destination": "/queue/count"}, b"d", "max_messages is 3")
    with house.connect() as consumer:
        consumer.subscribe("/queue/count", prefetch_count="5")
        held = [consumer.message(body) for body in "abc"]
        with house.connect() as producer:  # held ones count
            producer.refused("SEND", {"destination": "/queue/count"}, b"d")
        for message in held:
            consumer.ask("ACK", {"id": message["ack"]})
        consumer.nothing()


def test_overflow_drop_oldest_at_max_messages_never_drops_a_held_message(house):
    with house.connect() as producer, house.connect() as consumer:
        producer.put("/queue/drop", "a", "b", "c", "d", "e")
        consumer.subscribe("/queue/drop")
        held = consumer.message("c")
        producer.put("/queue/drop", "f")  # d goes
        consumer.nack(held)
        held = consumer.message("c")
        consumer.subscribe("/queue/drop", prefetch_count="3")
        assert consumer.bodies(2) == ["e", "f"]
        producer.refused("SEND", {"destination": "/queue/drop"}, b"g", "nothing can be dropped")


@pytest.mark.parametrize("overflow", ["reject", "drop"])
def test_max_bytes_at_its_boundary_and_beyond(house, overflow):
    name = "/queue/bytes" if overflow == "reject" else "/queue/bytes.drop"
    block = len(f"destination:{name}\n")
    with house.connect() as producer:
        producer.put(name, "a" * (2048 - block), "b" * (2048 - block))
        if overflow == "reject":
            producer.refused("SEND", {"destination": name}, b"", "max_bytes is 4096")
        else:
            producer.put(name, "c")
    with house.connect() as consumer:
        consumer.subscribe(name, prefetch_count="5")
        assert [body[0] for body in consumer.bodies(2)] == (["a", "b"] if overflow == "reject" else ["b", "c"])


def test_a_destination_in_the_file_may_have_any_name_and_says_its_type(house):
    with house.connect() as client:
        client.put("orders", "a")
        client.subscribe("orders", "1")
        client.message("a")
        client.subscribe("topic by type", "2")
        client.send("SEND", {"destination": "topic by type"}, b"b")
        assert client.message("b")["subscription"] == "2"
        client.put("/topic/queue by type", "kept")
    assert drain(house, "/topic/queue by type") == ["kept"]


@pytest.mark.parametrize(
    "destination", ["/queue/new", "/topic/new", "new", "/queue/", "/fanout/new", "/queue/x/y/deep"]
)
@pytest.mark.parametrize("command", ["SEND", "SUBSCRIBE"])
def test_an_unknown_destination_is_an_error(house, command, destination):
    with house.connect() as client:
        client.refused(command, {"destination": destination, "id": "0"}, text="unknown destination")


@pytest.mark.parametrize(
    ("name", "limit"),
    [("/queue/exact.one", 1), ("/queue/exact.two", 2), ("/queue/other.one", 3), ("/queue/exact.", 2)],
)
def test_the_exact_name_wins_then_file_order(house, name, limit):
    with house.connect() as client:
        client.put(name, *"abc"[:limit])
        client.refused("SEND", {"destination": name}, b"d", f"max_messages is {limit}")


def test_a_star_matches_any_run_but_a_slash_and_permits_creation(house):
    with house.connect() as client:
        client.put("/queue/any-thing.at all/deep", "a")
    assert drain(house, "/queue/any-thing.at all/deep") == ["a"]


def test_a_fanout_copies_a_send_to_all_its_queues(house):
    with house.connect() as client:
        client.ask("SEND", {"destination": "/fanout/all", "kept": "yes"}, b"a")
        ids = set()
        for name in ("disk", "memory", "small"):
            client.subscribe(f"/queue/child.{name}", name, "client", prefetch_count="9")
            message = client.message("a")
            assert message["destination"] == "/fanout/all"
            assert message["kept"] == "yes"
            ids.add(message["message-id"])
            client.ask("ACK", {"id": message["ack"]})
        assert len(ids) == 3


def test_one_refusal_refuses_the_whole_fanout(house):
    with house.connect() as client:
        client.put("/fanout/all", "1", "2")
        client.refused("SEND", {"destination": "/fanout/all"}, b"3", "max_messages is 2")
    for name in ("disk", "memory", "small"):
        if name == "small":
            with house.connect() as client:
                client.subscribe("/queue/child.small", prefetch_count="2")
                for body in "12":
                    client.ask("ACK", {"id": client.message(body)["ack"]})
        else:
            assert drain(house, f"/queue/child.{name}") == ["1", "2"]


def test_nobody_subscribes_to_a_fanout(house):
    with house.connect() as client:
        client.refused("SUBSCRIBE", {"destination": "/fanout/all", "id": "0"}, text="fanout")


def test_a_dead_letter_is_declared_thereby_and_says_where_it_comes_from(house):
    with house.connect() as client:
        headers = {"destination": "/queue/give.up", "x": "1", "dead-letter-queue": "forged", "content-length": "3"}
        client.ask("SEND", headers, b"a\0b")
        client.subscribe("/queue/give.up")
        client.ask("NACK", {"id": client.message()["ack"], "requeue": "false"})
        client.subscribe("dead letters\\c of \\\\ all", "1")
        message = client.message("a\0b")
        assert client.lines[client.lines.index("destination:/queue/give.up") :] == ["destination:/queue/give.up", "x:1"]
        assert [line for line in client.lines if line.startswith("dead-letter-queue")] == [
            "dead-letter-queue:/queue/give.up"
        ]
        assert message["dead-letter-reason"] == "nacked"
        assert message["dead-letter-count"] == "1"
        client.ask("ACK", {"id": message["ack"]})


def test_limits_queues_is_reached_by_creation_and_not_passed(house):
    with house.connect() as client:
        made = 0
        while True:
            client.send("SEND", {"destination": f"/queue/{next(COUNT)}/deep", "receipt": "r"})
            command, headers, _ = client.frame()
            if command == "ERROR":
                break
            made += 1
            assert made < 22
        assert "limits.queues is 22" in headers["message"]
    with house.connect() as client:  # those that there are go on
        client.put("orders", "more")
        client.refused("SUBSCRIBE", {"destination": "/queue/last/deep", "id": "0"}, text="limits.queues is 22")


@pytest.mark.parametrize("name", ["/queue/*", "/queue/a*b", " /queue/a", "/queue/\u0001"])
def test_what_is_no_name_is_not_made(tmp_path_factory, name, creating):
    with creating.connect() as client:
        client.refused("SEND", {"destination": name})


@pytest.fixture(scope="module")
def creating(tmp_path_factory):
    with house_of(tmp_path_factory.mktemp("creating"), "create: true\nlimits: {queues: 2}\n") as house:
        yield house


def test_the_boundary_of_limits_queues(creating):
    with creating.connect() as client:
        client.put("/queue/1", "a")
        client.subscribe("/queue/2")
        client.subscribe("/topic/is no queue", "1")
        client.refused("SEND", {"destination": "/queue/3"}, text="limits.queues is 2")


@pytest.mark.parametrize("persistent", ["true", "false"])
def test_an_idle_queue_makes_room_for_a_new_one_before_and_after_a_restart(tmp_path, persistent):
    config = f"create: true\nlimits: {{queues: 3}}\ndefaults: {{persistent: {persistent}}}\n"
    with house_of(tmp_path, config) as house, house.connect() as client:
        for name in ("/queue/1", "/queue/2", "/queue/3"):
            client.put(name, "a")
        with house.connect() as other:
            other.refused("SEND", {"destination": "/queue/4"}, text="limits.queues is 3")
        take_from(client, "/queue/2")
        client.put("/queue/4", "a")
        with house.connect() as other:
            other.refused("SEND", {"destination": "/queue/2"}, text="limits.queues is 3")
    kept = ["/queue/1", "/queue/3", "/queue/4"] if persistent == "true" else []
    with house_of(tmp_path, config) as house, house.connect() as client:
        if not kept:
            for name in ("/queue/1", "/queue/3", "/queue/4"):
                client.put(name, "a")
        with house.connect() as other:
            other.refused("SUBSCRIBE", {"destination": "/queue/5", "id": "0"}, text="limits.queues is 3")
        take_from(client, "/queue/3")
        client.subscribe("/queue/5", "5")
        client.put("/queue/5", "b")
        client.ack(client.message("b"))
        take_from(client, "/queue/4")
        take_from(client, "/queue/1")


def take_from(client, name):
    """Take the one message of a queue, and leave it."""
    client.subscribe(name, "drain")
    client.ask("ACK", {"id": client.message("a")["ack"]})
    client.ask("UNSUBSCRIBE", {"id": "drain"})


@pytest.mark.parametrize("name", ["/temp-queue/a", "/fanout/a", "queue/a", "/dsub/a", "/queue/", "/topic/"])
def test_create_makes_queues_and_topics_only(creating, name):
    with creating.connect() as client:
        client.refused("SEND", {"destination": name}, text="unknown destination")


BEFORE = """\
create: true
destinations:
  /queue/gone: {type: queue}
  /queue/other: {type: queue}
  /fanout/f: {type: fanout, queues: [/queue/f1, /queue/f2]}
  /queue/d: {type: queue, max_deliveries: 1, dead_letter: /queue/d.dead}
"""
AFTER = """\
create: false
destinations:
  /topic/nobody: {type: topic}
  /fanout/f: {type: fanout, queues: [/queue/f1]}
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A data directory with messages in several queues, and the last words of who made it."""
    directory = tmp_path_factory.mktemp("stored")
    with house_of(directory, BEFORE) as house, house.connect() as client:
        client.put("/queue/gone", "a", "b")
        client.put("/queue/made", "m")
        client.put("/fanout/f", "f")
        client.put("/queue/d", "d")
        client.subscribe("/queue/d")
        client.ask("NACK", {"id": client.message("d")["ack"]})
    return directory / "data"


def kept(stored, tmp_path, config, **how):
    """A daemon on a copy of that data directory."""
    shutil.copytree(stored, tmp_path / "data")
    return House(tmp_path, config, **how)


def test_a_queue_that_has_left_the_config_keeps_its_messages_and_is_reported(stored, tmp_path):
    """It can be consumed, not sent to; the start that finds it empty drops it."""
    with kept(stored, tmp_path, AFTER, log_level="warning") as house:
        house.wait_for_line("/queue/gone")
        with house.connect() as client:
            client.refused("SEND", {"destination": "/queue/gone"}, text="/queue/gone")
        with house.connect() as client:
            client.ask("BEGIN", {"transaction": "t"})
            client.refused("SEND", {"destination": "/queue/made", "transaction": "t"})
        with house.connect() as client:
            client.subscribe("/queue/gone", "1", prefetch_count="2")
            for body in "ab":
                client.ask("ACK", {"id": client.message(body)["ack"]})
            client.subscribe("/queue/made", "2", prefetch_count="2")
            client.message("m")
        assert house.terminate() == 0
    with House(tmp_path, AFTER) as house:
        with house.connect() as client:
            client.subscribe("/queue/made", "2")
            client.message("m")
            client.nothing()
        with house.connect() as client:
            # It was consumed to its end, so it is gone like any name that is not configured.
            client.refused("SUBSCRIBE", {"destination": "/queue/gone", "id": "1"}, text="/queue/gone")


def test_fanouts_and_dead_letters_survive_a_restart(stored, tmp_path):
    with kept(stored, tmp_path, BEFORE) as house, house.connect() as client:
        for number, name in enumerate(("f1", "f2")):
            client.subscribe(f"/queue/{name}", str(number), prefetch_count=str(number + 1))
            assert client.message("f")["destination"] == "/fanout/f"
        client.subscribe("/queue/d.dead", "2", prefetch_count="3")
        message = client.message("d")
        assert message["dead-letter-queue"] == message["destination"] == "/queue/d"
        client.subscribe("/queue/d", "3", prefetch_count="9")
        client.nothing()


@pytest.mark.parametrize(
    "entry",
    [
        "/queue/gone: {type: queue, persistent: false}",
        "/queue/gone: {type: topic}",
        "/queue/gone: {type: fanout, queues: [/queue/made]}",
        "/queue/*: {type: queue, persistent: false}",
    ],
)
def test_a_change_of_type_or_persistence_while_messages_are_stored_is_refused_at_start(stored, tmp_path, entry):
    with kept(stored, tmp_path, f"destinations:\n  {entry}\n", wait=False) as house:
        assert house.wait() == 78
        (line,) = (line for line in house.log if "cannot start" in line)
        assert "/queue/" in line
        assert "consume" in line  # what to do
        assert not house.addresses


def test_an_empty_stored_queue_may_change(stored, tmp_path):
    with kept(stored, tmp_path, "create: true\ndestinations: {/queue/other: {type: topic}}\n") as house:
        with house.connect() as client:
            client.subscribe("/queue/other")
            client.send("SEND", {"destination": "/queue/other"}, b"x")
            client.message("x")
        assert house.terminate() == 0
