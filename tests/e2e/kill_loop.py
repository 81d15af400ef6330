"""kill -9 under load, again and again, against the books that the clients kept in their own processes.

    python tests/e2e/kill_loop.py [--cycles 200] [--fsync always] [--directory DIR] [--seed N]

Four producers (one of them in transactions), a consumer that ACKs and one that moves messages to another queue in
transactions; the daemon is killed when so many receipts have arrived, and started again on the same data. Each cycle
and at the end: what was receipted is there or was taken, once and whole, in order per producer; a receipted ACK never
comes back; a transaction is whole or absent; nothing is there that was not sent. Called by: `test_kill`, and by hand.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from daemon import Client, Daemon
from kill_clients import body_of

SCRIPT = Path(__file__).with_name("kill_clients.py")
PATIENCE = 60.0
PLAIN, TAKEN, MOVED, TARGET = "/queue/plain", "/queue/taken", "/queue/moved", "/queue/target"


class Book:
    """What one client process said. Lines come in a thread; `changed` is notified after each."""

    def __init__(self, port: int, changed: threading.Condition, *arguments: object) -> None:
        self.sent = self.kept = 0
        self.got: list[str] = []
        self.done: set[str] = set()
        self._changed = changed
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(port), *map(str, arguments)], stdout=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                word, value = line.split()
                with self._changed:
                    if word == "sent":
                        self.sent = int(value)
                    elif word == "kept":
                        self.kept = int(value)
                    elif word == "got":
                        self.got.append(value)
                    else:
                        self.done.add(value)
                    self._changed.notify_all()

    def end(self) -> int:
        """Wait for the end of the process and of what it said; its exit code."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            self._reader.join(PATIENCE)


class Producer:
    """One producer over its lives, one per daemon: (first message, receipted up to, sent up to) of each."""

    def __init__(self, name: str, queue: str, group: int, size: int) -> None:
        self.name = name
        self.queue = queue
        self.group = group
        self.size = size
        self.life = 0
        self.lives: dict[int, tuple[int, int, int]] = {}

    @property
    def first(self) -> int:
        """Where the next life starts: what was not receipted is sent once more, under another name."""
        return self.lives[self.life - 1][1] if self.lives else 0


class Loop:
    """One data directory, the processes around it and what must be true of it."""

    def __init__(self, directory: Path, fsync: str = "always", env: dict[str, str] | None = None) -> None:
        self.receipts = 0
        self._directory = directory
        self._config = f"create: true\nfsync: {fsync}\n"
        self._env = env
        self._producers = [
            Producer("p0", PLAIN, 1, 100),
            Producer("p1", PLAIN, 1, 3000),
            Producer("p2", PLAIN, 7, 100),
            Producer("p3", TAKEN, 1, 100),
            Producer("p4", MOVED, 1, 100),
        ]
        self._acked: dict[str, set[str]] = {TAKEN: set(), MOVED: set()}  # keys whose ACK is receipted
        self._tried: dict[str, set[str]] = {TAKEN: set(), MOVED: set()}  # keys whose ACK was sent

    def cycle(self, kill_after: int, *, acked: int = 0, prelude: str = "") -> None:
        """Load a daemon until `kill_after` receipts have come, then kill -9; the books say what must be there.

        `acked` of them must be of each taker. `prelude` runs in the daemon before it starts: a broker with a bug, to
        see that it is found.
        """
        changed = threading.Condition()
        with self._daemon(prelude) as daemon:
            port = daemon.address[1]
            puts = [
                Book(port, changed, "put", each.queue, each.name, each.life, each.first, 10**6, each.group, each.size)
                for each in self._producers
            ]
            takers = {
                TAKEN: Book(port, changed, "take", TAKEN, 10),
                MOVED: Book(port, changed, "move", MOVED, TARGET, 10),
            }

            def receipts() -> int:
                kept = (max(0, book.kept - each.first) for each, book in zip(self._producers, puts, strict=True))
                return sum(kept) + sum(len(book.done) for book in takers.values())

            def enough() -> bool:
                return receipts() >= kill_after and all(len(book.done) >= acked for book in takers.values())

            with changed:
                reached = changed.wait_for(enough, PATIENCE)
            lived = daemon.process.poll() is None
            daemon.kill()
            codes = [book.end() for book in (*puts, *takers.values())]
            assert not any(codes), codes
            assert reached, "\n".join(daemon.log)
            assert lived, "\n".join(daemon.log)
        self.receipts += receipts()
        for producer, book in zip(self._producers, puts, strict=True):
            first = producer.first
            producer.lives[producer.life] = (first, max(first, book.kept), max(first, book.sent))
            producer.life += 1
        for queue, book in takers.items():
            again = self._acked[queue] & set(book.got)
            assert not again, f"{queue}: delivered after a receipted ACK: {sorted(again)[:5]}"
            self._acked[queue] |= book.done
            self._tried[queue] |= set(book.got)

    def check(self) -> int:
        """Start again, take everything that is there and compare; how many messages that was."""
        with self._daemon() as daemon:
            there = {queue: drain(daemon, queue) for queue in (PLAIN, TAKEN, MOVED, TARGET)}
            assert daemon.terminate() == 0
        for queue, keys in there.items():
            assert len(keys) == len(set(keys)), f"{queue}: a message is there twice"
        for producer in self._producers:
            self._check_producer(producer, there)
        for queue in (TAKEN, MOVED):
            again = self._acked[queue] & set(there[queue])
            assert not again, f"{queue}: there after a receipted ACK: {sorted(again)[:5]}"
        # The ACK and the SEND were one transaction: whole or absent.
        both = set(there[MOVED]) & set(there[TARGET])
        assert not both, f"moved, and still there: {sorted(both)[:5]}"
        lost = self._acked[MOVED] - set(there[TARGET])
        assert not lost, f"the COMMIT was receipted, the message is not there: {sorted(lost)[:5]}"
        for producer in self._producers:
            producer.lives.clear()  # all of them are taken: none of their messages may ever come back
        for keys in (*self._acked.values(), *self._tried.values()):
            keys.clear()
        return sum(map(len, there.values()))

    def _daemon(self, prelude: str = "") -> Daemon:
        return Daemon(self._directory, self._config, log_level="info", env=self._env, prelude=prelude)

    def _check_producer(self, producer: Producer, there: dict[str, list[str]]) -> None:
        name = producer.name
        mine = [key for key in there[producer.queue] if key.startswith(f"{name}/")]
        order = [tuple(map(int, key.split("/")[1:])) for key in mine]
        assert order == sorted(order), f"{name}: out of order"
        present = set(mine)
        if producer.queue == MOVED:
            present |= set(there[TARGET])
        elif producer.queue == TAKEN:
            present |= self._tried[TAKEN]  # what an ACK was sent for may be gone; all else must be there
        numbers: dict[int, list[int]] = defaultdict(list)
        for key in present:
            _, life, number = key.split("/")
            numbers[int(life)].append(int(number))
        assert set(numbers) <= set(producer.lives), f"{name}: invented, or back from the dead: {set(numbers)}"
        for life, (first, kept, sent) in producer.lives.items():
            found = sorted(numbers[life])
            end = first + len(found)
            assert found == list(range(first, end)), f"{name}/{life}: not from {first} on without a gap"
            assert kept <= end <= sent, f"{name}/{life}: receipted up to {kept}, sent up to {sent}, there up to {end}"
            assert (end - first) % producer.group == 0, f"{name}/{life}: half a transaction"


def drain(daemon: Daemon, queue: str) -> list[str]:
    """Take everything in `queue`: the keys in order. Each message must be byte for byte what was sent."""
    keys = []
    with Client(daemon.address) as client:
        client.send("SEND", {"destination": queue, "receipt": "end"}, b"end")
        assert client.frame()[0] == "RECEIPT"
        client.send("SUBSCRIBE", {"destination": queue, "id": "0", "ack": "client", "prefetch-count": "1000"})
        while True:
            command, headers, body = client.frame()
            assert command == "MESSAGE", (command, headers)
            if body == b"end":
                break
            key = body.split(b" ", 1)[0].decode()
            name, life, number = key.split("/")
            assert body == body_of(name, int(life), int(number), 3000 if name == "p1" else 100), body[:200]
            keys.append(key)
            if len(keys) % 500 == 0:
                client.send("ACK", {"id": headers["ack"]})
        client.send("ACK", {"id": headers["ack"], "receipt": "all"})
        assert client.frame()[:2] == ("RECEIPT", {"receipt-id": "all"})
    return keys


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=200, help="kills in all")
    parser.add_argument("--fsync", default="always", help="always, never or <N>ms")
    parser.add_argument("--directory", default=".", help="where the temporary data directory is made")
    parser.add_argument("--seed", type=int, default=None, help="of the moments of the kills")
    options = parser.parse_args()
    seed = random.randrange(1 << 30) if options.seed is None else options.seed
    chance = random.Random(seed)
    print(f"seed {seed}, fsync {options.fsync}", flush=True)
    started = time.monotonic()
    messages = 0
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="kill-") as place:
        loop = Loop(Path(place), options.fsync)
        for number in range(1, options.cycles + 1):
            loop.cycle(chance.choice((1, 50, 500, 3000)) + chance.randrange(500))
            if number == options.cycles or chance.random() < 0.4:
                messages += loop.check()
    seconds = time.monotonic() - started
    print(f"{options.cycles} kills, {loop.receipts} receipts, {messages} messages compared, {seconds:.0f} s")


if __name__ == "__main__":
    main()
