"""A well-behaved client that works beside the abuse: what it sends it gets back, in order and in time.

It runs in a process of its own, so that a busy test delays it no more than the broker does. `Neighbour` starts it and
reads its figures; as a script it is the client itself: `neighbour.py PORT`, until its standard input ends, and LEAST
rounds at least. It must never import radiator. Called by: `test_abuse`, `test_fairness`.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time

from kill_clients import Stream, frame

QUEUE = "/queue/neighbour"
HANG = 60.0
LEAST = 20


class Neighbour:
    """At work within its `with`; afterwards `rounds`, and `worst` and `median` of a receipted SEND in seconds."""

    def __init__(self, port: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.rounds = 0
        self.worst = self.median = 0.0

    def __enter__(self) -> Neighbour:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            out, _ = self.process.communicate("", timeout=2 * HANG)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        if kind is None:
            assert self.process.returncode == 0, "the neighbour was disturbed"
            figures = json.loads(out)
            self.rounds, self.worst, self.median = figures["rounds"], figures["worst"], figures["median"]


def main() -> None:
    """Send with a receipt, get it, receive the message, ACK it with a receipt, get that; again and again."""
    stream = Stream(int(sys.argv[1]))
    stream.sock.settimeout(HANG)
    batches = stream.batches()
    came: list[tuple[str, dict[str, str], bytes]] = []

    def following() -> tuple[str, dict[str, str], bytes]:
        while not came:
            came.extend(next(batches))
        return came.pop(0)

    assert following()[0] == "CONNECTED"
    stream.send(frame("SUBSCRIBE", {"id": "0", "destination": QUEUE, "ack": "client-individual", "receipt": "sub"}))
    assert following()[0] == "RECEIPT"
    times = []
    print("ready", flush=True)
    while len(times) < LEAST or not select.select([sys.stdin], [], [], 0)[0]:
        number = str(len(times))
        started = time.monotonic()
        stream.send(frame("SEND", {"destination": QUEUE, "receipt": number}, b"number " + number.encode()))
        pair = [following(), following()]
        times.append(time.monotonic() - started)
        # Which of the two comes first is not promised.
        pair.sort(key=lambda each: each[0])
        (message, headers, body), (receipt, ours, _) = pair
        assert (message, body) == ("MESSAGE", b"number " + number.encode()), (message, body, number)
        assert (receipt, ours["receipt-id"]) == ("RECEIPT", number)
        assert "redelivered" not in headers
        stream.send(frame("ACK", {"id": headers["ack"], "receipt": "ack"}))
        assert following()[:2] == ("RECEIPT", {"receipt-id": "ack"})
    times.sort()
    print(json.dumps({"rounds": len(times), "worst": times[-1], "median": times[len(times) // 2]}))


if __name__ == "__main__":
    main()
