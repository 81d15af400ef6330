"""A client in a process of its own that writes down what it sent and what the broker promised it, until that dies.

    recorder.py PORT JOURNAL NAME LIFE SEED ROLE

    single   SENDs to /queue/a, a receipt each
    grouped  transactions of several SENDs to /queue/a and /queue/b; now and then one is aborted
    fanout   SENDs to /fanout/f
    work     takes from /queue/a: ACKs, NACKs, dead letters, moves to /queue/target in a transaction, forgets some
    settle   takes from /queue/b and /queue/f1: ACKs all that came at once in one transaction

The journal is on another file system than the broker's data. Times are seconds of the machine's monotonic clock, taken
before a frame leaves and after one came:

    S UNIT TIME put:QUEUE:KEY … ack:QUEUE:KEY …    these left as one unit (all or nothing)
    R UNIT TIME                                    its receipt came
    G QUEUE:KEY TIME                               the message was delivered, byte for byte
    E TEXT                                         the broker sent an ERROR
    B TEXT                                         what may never be

It must never import radiator. Called by: `oracle.Load`.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO
from zlib import crc32

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from kill_clients import Stream, frame

__all__ = ["DEAD", "F1", "F2", "TARGET", "A", "B", "body_of", "message"]

A, B, F1, F2, TARGET, DEAD = "/queue/a", "/queue/b", "/queue/f1", "/queue/f2", "/queue/target", "/queue/dead"
FANOUT = "/fanout/f"

SINGLE_WINDOW, GROUP_WINDOW, FANOUT_WINDOW = 30, 6, 6
"""Receipts that a producer leaves outstanding."""

HELD = 4
"""Messages that a worker forgets: they stay un-ACKed until the connection ends."""


def body_of(key: str) -> bytes:
    """The only body that the message `key` may have: mostly short, some longer than a page, a few than a segment."""
    chance = crc32(key.encode())
    size = 300_000 if chance % 4001 == 1 else 20_000 if chance % 97 == 1 else chance % 700
    piece = f"{key}\n\0".encode()
    return piece * (size // len(piece) + 1)


def message(destination: str, key: str, **headers: str) -> bytes:
    """The SEND of the message `key`."""
    return frame("SEND", {"destination": destination, "key": key, **headers}, body_of(key))


class Client:
    """What the roles share: the stream, the journal, a name and a number for each unit."""

    def __init__(self, stream: Stream, journal: TextIO, name: str, life: str, seed: str) -> None:
        self.stream = stream
        self.chance = random.Random(f"{seed}/{name}/{life}")
        self._journal = journal
        self._name = f"{name}/{life}"
        self._units = 0
        self._held: set[str] = set()
        self._settled: set[str] = set()

    def unit(self, *effects: str) -> str:
        """Write down a unit before it leaves; its name, which is its receipt's too."""
        name = self.key()
        self._journal.write(f"S {name} {time.monotonic():.6f} {' '.join(effects)}\n")
        return name

    def key(self) -> str:
        """A name that nothing else has."""
        self._units += 1
        return f"{self._name}/{self._units}"

    def send(self, data: bytes) -> None:
        """First the journal, then the wire."""
        self._journal.flush()
        if data:
            self.stream.send(data)

    def batches(self):
        """What came, with receipts and deliveries written down; ends with the connection, or with an ERROR."""
        try:
            for batch in self.stream.batches():
                now = time.monotonic()
                for command, headers, body in batch:
                    if command == "RECEIPT":
                        self._journal.write(f"R {headers['receipt-id']} {now:.6f}\n")
                    elif command == "MESSAGE":
                        self._delivered(headers, body, now)
                yield batch
        except SystemExit as error:  # how a stream tells of an ERROR
            self._journal.write(f"E {error}\n")
            self._journal.flush()

    def settled(self, reference: str) -> None:
        """An ACK or a dead-lettering NACK of it is on its way: it may never come again."""
        self._settled.add(reference)

    def _delivered(self, headers: dict[str, str], body: bytes, now: float) -> None:
        reference = f"{headers['subscription']}:{headers.get('key')}"
        if body != body_of(headers.get("key", "")):
            self._journal.write(f"B {reference} was delivered with another body: {body[:80]!r}\n")
        if reference in self._settled:
            self._journal.write(f"B {reference} was delivered again after its ACK was sent\n")
        self._journal.write(f"G {reference} {now:.6f}\n")


def produce(client: Client, window: int, more: Callable[[], bytes]) -> None:
    """Keep `window` receipts outstanding; `more` makes the frames of one unit."""
    for batch in client.batches():
        free = sum(command == "RECEIPT" for command, _, _ in batch)
        if any(command == "CONNECTED" for command, _, _ in batch):
            free = window
        client.send(b"".join(more() for _ in range(free)))


def single(client: Client) -> None:
    def more() -> bytes:
        key = client.key()
        return message(A, key, receipt=client.unit(f"put:{A}:{key}"))

    produce(client, SINGLE_WINDOW, more)


def grouped(client: Client) -> None:
    def more() -> bytes:
        pieces = []
        while client.chance.random() < 0.1:
            pieces += begin_and_send([client.key() for _ in range(3)])
            pieces.append(frame("ABORT", {"transaction": "t"}))
        keys = [client.key() for _ in range(client.chance.randrange(2, 10))]
        pieces += begin_and_send(keys)
        unit = client.unit(*(f"put:{queue_of(index)}:{key}" for index, key in enumerate(keys)))
        pieces.append(frame("COMMIT", {"transaction": "t", "receipt": unit}))
        return b"".join(pieces)

    def begin_and_send(keys: list[str]) -> list[bytes]:
        sends = [message(queue_of(index), key, transaction="t") for index, key in enumerate(keys)]
        return [frame("BEGIN", {"transaction": "t"}), *sends]

    def queue_of(index: int) -> str:
        return B if index % 2 else A

    produce(client, GROUP_WINDOW, more)


def fanout(client: Client) -> None:
    def more() -> bytes:
        key = client.key()
        return message(FANOUT, key, receipt=client.unit(f"put:{F1}:{key}", f"put:{F2}:{key}"))

    produce(client, FANOUT_WINDOW, more)


def subscribe(client: Client, queue: str, prefetch: int) -> None:
    client.send(
        frame(
            "SUBSCRIBE",
            {"destination": queue, "id": queue, "ack": "client-individual", "prefetch-count": str(prefetch)},
        )
    )


def work(client: Client) -> None:
    subscribe(client, A, 20)
    held = 0
    for batch in client.batches():
        data = b""
        for command, headers, _ in batch:
            if command != "MESSAGE":
                continue
            key, ack = headers["key"], headers["ack"]
            taken = f"ack:{A}:{key}"
            choice = client.chance.random()
            if choice < 0.05:
                data += frame("NACK", {"id": ack})
                continue
            if choice < 0.10 and held < HELD:
                held += 1
                continue
            client.settled(f"{A}:{key}")
            if choice < 0.15:
                data += frame(
                    "NACK", {"id": ack, "requeue": "false", "receipt": client.unit(taken, f"put:{DEAD}:{key}")}
                )
            elif choice < 0.35:
                unit = client.unit(taken, f"put:{TARGET}:{key}")
                data += frame("BEGIN", {"transaction": unit})
                data += frame("ACK", {"id": ack, "transaction": unit})
                data += message(TARGET, key, transaction=unit)
                data += frame("COMMIT", {"transaction": unit, "receipt": unit})
            elif choice < 0.45:
                client.unit(taken)
                data += frame("ACK", {"id": ack})
            else:
                data += frame("ACK", {"id": ack, "receipt": client.unit(taken)})
        client.send(data)


def settle(client: Client) -> None:
    subscribe(client, B, 20)
    subscribe(client, F1, 20)
    for batch in client.batches():
        acks = [(headers["subscription"], headers) for command, headers, _ in batch if command == "MESSAGE"]
        if not acks:
            continue
        for queue, headers in acks:
            client.settled(f"{queue}:{headers['key']}")
        unit = client.unit(*(f"ack:{queue}:{headers['key']}" for queue, headers in acks))
        data = frame("BEGIN", {"transaction": unit})
        data += b"".join(frame("ACK", {"id": headers["ack"], "transaction": unit}) for _, headers in acks)
        client.send(data + frame("COMMIT", {"transaction": unit, "receipt": unit}))


ROLES = {"single": single, "grouped": grouped, "fanout": fanout, "work": work, "settle": settle}


def main(port: str, journal: str, name: str, life: str, seed: str, role: str) -> None:
    """One client, until its connection ends."""
    try:
        stream = Stream(int(port))
    except ConnectionError:
        return  # the broker ended before we came
    with open(journal, "w", encoding="ascii") as file:
        ROLES[role](Client(stream, file, name, life, seed))


if __name__ == "__main__":
    main(*sys.argv[1:])
