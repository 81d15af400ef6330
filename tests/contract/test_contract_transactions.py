"""The contract on transactions: all or nothing, receipts, limits."""

from __future__ import annotations

import itertools

import pytest
from contract_peer import House, house_of

CONFIG = """\
create: true
limits: {transaction: 64KiB, transactions: 3}
destinations:
  /queue/small: {type: queue, persistent: false, max_messages: 2}
"""
COUNT = itertools.count()


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with house_of(tmp_path_factory.mktemp("transactions"), CONFIG) as house:
        yield house


@pytest.fixture
def queue():
    return f"/queue/t{next(COUNT)}"


def test_what_is_sent_in_a_transaction_is_seen_after_its_commit_in_order(house, queue):
    with house.connect() as client, house.connect() as consumer:
        consumer.subscribe(queue, ack="auto")
        client.ask("BEGIN", {"transaction": "t"})
        client.put(queue, "a", "b", transaction="t")  # the receipt says that the transaction took it
        client.put(queue, "outside")
        consumer.message("outside")
        consumer.nothing()
        client.ask("COMMIT", {"transaction": "t"})
        assert consumer.bodies(2) == ["a", "b"]


def test_commit_takes_its_places_then(house, queue):
    with house.connect() as client:
        client.ask("BEGIN", {"transaction": "t"})
        client.put(queue, "first sent", transaction="t")
        client.put(queue, "first there")
        client.ask("COMMIT", {"transaction": "t"})
        client.subscribe(queue, ack="auto")
        assert client.bodies(2) == ["first there", "first sent"]


def test_the_header_transaction_is_not_passed_on(house, queue):
    with house.connect() as client:
        client.ask("BEGIN", {"transaction": "t"})
        client.put(queue, "a", transaction="t", kept="yes")
        client.ask("COMMIT", {"transaction": "t"})
        client.subscribe(queue)
        message = client.message("a")
        assert message["kept"] == "yes"
        assert not {"transaction", "receipt"} & message.keys()


def test_abort_sends_nothing_and_its_name_is_free_again(house, queue):
    with house.connect() as client:
        for end in ("ABORT", "COMMIT"):
            client.ask("BEGIN", {"transaction": "t"})
            client.put(queue, end, transaction="t")
            client.ask(end, {"transaction": "t"})
        client.subscribe(queue, ack="auto")
        client.message("COMMIT")
        client.nothing()


def test_a_lost_connection_aborts(house, queue):
    with house.connect() as client:
        client.put(queue, "a")
        client.subscribe(queue)
        client.ask("BEGIN", {"transaction": "t"})
        client.put(queue, "never", transaction="t")
        client.ask("ACK", {"id": client.message("a")["ack"], "transaction": "t"})
    with house.connect() as client:
        client.subscribe(queue, ack="auto")
        assert client.message("a")["delivery-count"] == "1"
        client.nothing()


def test_one_refusal_refuses_the_whole_transaction(house, queue):
    with house.connect() as client:
        client.ask("BEGIN", {"transaction": "t"})
        client.put(queue, "a", transaction="t")
        for body in ("1", "2", "3"):
            client.put("/queue/small", body, transaction="t")
        client.refused("COMMIT", {"transaction": "t"}, text="max_messages is 2")
    with house.connect() as client:
        client.subscribe(queue, "1", "auto", prefetch_count="9")
        client.subscribe("/queue/small", "2", "auto")
        client.nothing()


def test_nacks_take_effect_at_commit(house, queue):
    with house.connect() as client, house.connect() as other:
        client.put(queue, "a")
        client.subscribe(queue)
        message = client.message("a")
        other.subscribe(queue)
        client.ask("BEGIN", {"transaction": "t"})
        client.ask("NACK", {"id": message["ack"], "transaction": "t"})
        other.nothing()
        client.ask("COMMIT", {"transaction": "t"})
        assert other.message("a")["delivery-count"] == "1"


@pytest.mark.parametrize(
    ("command", "headers"),
    [
        ("BEGIN", {}),
        ("COMMIT", {}),
        ("ABORT", {}),
        ("COMMIT", {"transaction": "unknown"}),
        ("ABORT", {"transaction": "unknown"}),
        ("SEND", {"transaction": "unknown", "destination": "/queue/x"}),
        ("BEGIN", {"transaction": "open"}),
    ],
)
def test_what_is_no_transaction_is_an_error(house, command, headers):
    with house.connect() as client:
        client.ask("BEGIN", {"transaction": "open"})
        client.refused(command, headers, text="transaction")


@pytest.mark.parametrize("command", ["ACK", "NACK"])
def test_an_ack_in_an_unknown_transaction_is_an_error(house, queue, command):
    with house.connect() as client:
        client.put(queue, "a")
        client.subscribe(queue)
        client.refused(command, {"id": client.message("a")["ack"], "transaction": "unknown"}, text="transaction")


def test_limits_transactions_at_its_boundary_and_one_beyond(house):
    with house.connect() as client:
        for name in "abc":
            client.ask("BEGIN", {"transaction": name})
        client.ask("ABORT", {"transaction": "a"})
        client.ask("BEGIN", {"transaction": "d"})
        client.refused("BEGIN", {"transaction": "e"}, text="limits.transactions is 3")


def test_limits_transaction_bounds_its_bytes(house, queue):
    with house.connect() as client:
        client.ask("BEGIN", {"transaction": "t"})
        client.put(queue, *("x" * 16_000 for _ in range(4)), transaction="t")
        client.refused(
            "SEND", {"destination": queue, "transaction": "t"}, b"x" * 2000, f"limits.transaction is {64 << 10}"
        )
    with house.connect() as client:
        client.ask("BEGIN", {"transaction": "t"})
        client.put(queue, *("x" * 16_000 for _ in range(4)), transaction="t")
        client.ask("COMMIT", {"transaction": "t"})
        client.ask("BEGIN", {"transaction": "u"})
        client.put(queue, "x" * 60_000, transaction="u")  # a limit of one transaction, not of all
        client.ask("BEGIN", {"transaction": "t"})  # and the next one has it all again
        client.put(queue, *("x" * 16_000 for _ in range(4)), transaction="t")
        client.ask("ABORT", {"transaction": "t"})


def test_a_committed_transaction_is_whole_after_a_kill_and_an_open_one_absent(tmp_path):
    with House(tmp_path) as house:
        client = house.connect()
        for name in ("whole", "open"):
            client.ask("BEGIN", {"transaction": name})
            for queue in ("/queue/a", "/queue/b"):
                client.put(queue, name, transaction=name)
        client.ask("COMMIT", {"transaction": "whole"})
        house.kill()
    with House(tmp_path) as house, house.connect() as client:
        for number, queue in enumerate(("/queue/a", "/queue/b")):
            client.subscribe(queue, str(number), "auto")
            client.message("whole")
        client.nothing()
