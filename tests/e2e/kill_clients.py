"""A client in a process of its own that keeps the books of what a broker promised it, until the broker dies.

    kill_clients.py PORT put QUEUE NAME LIFE FIRST COUNT GROUP SIZE
    kill_clients.py PORT take QUEUE PREFETCH
    kill_clients.py PORT move QUEUE TARGET PREFETCH

put: messages FIRST.. of producer NAME, each with a receipt; in transactions of GROUP where that is over 1, then only
     COMMIT has one. Prints "sent N" before a message leaves and "kept N" when N messages are receipted.
take: prints "got KEY" for each message, then ACKs it with a receipt; "done KEY" when that is here.
move: the same, but ACKs it in a transaction that sends the message to TARGET; "done KEY" is its COMMIT.

It ends when the broker does. It must never import radiator. Called by: `kill_loop`.
"""

from __future__ import annotations

import contextlib
import socket
import sys

WINDOW = 20
"""Receipts that a producer leaves outstanding."""


def body_of(name: str, life: int, number: int, size: int) -> bytes:
    """The only body that message may have, of about `size` bytes."""
    key = f"{name}/{life}/{number} ".encode()
    return key * max(1, size // len(key))


def frame(command: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    lines = "".join(f"{key}:{value}\n" for key, value in headers.items())
    length = f"content-length:{len(body)}\n" if body else ""
    return f"{command}\n{lines}{length}\n".encode() + body + b"\0"


class Stream:
    """A connection that has shaken hands; `frames` ends with it."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send(frame("CONNECT", {"accept-version": "1.2", "host": "/"}))

    def send(self, data: bytes) -> None:
        # A broken pipe: the frames that came before the end are still to be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)

    def batches(self):
        """Lists of (command, headers, body), as they come."""
        rest = b""
        while True:
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:
                return
            if not data:
                return
            rest += data
            found, start = [], 0
            while True:
                while rest[start : start + 1] == b"\n":
                    start += 1
                end = rest.find(b"\n\n", start)
                if end < 0:
                    break
                command, *lines = rest[start:end].decode().split("\n")
                headers = dict(line.split(":", 1) for line in lines)
                length = int(headers.get("content-length", "0"))
                if len(rest) < end + 2 + length + 1:
                    break
                if command == "ERROR":
                    raise SystemExit(f"ERROR {headers}")
                found.append((command, headers, rest[end + 2 : end + 2 + length]))
                start = end + 2 + length + 1
            rest = rest[start:]
            yield found


def put(stream: Stream, queue: str, name: str, life: int, first: int, count: int, group: int, size: int) -> None:
    following = first

    def more() -> bytes:
        nonlocal following
        pieces = []
        last = min(following + group, first + count)
        if group > 1:
            pieces.append(frame("BEGIN", {"transaction": "t"}))
        for number in range(following, last):
            headers = {"destination": queue, **({"transaction": "t"} if group > 1 else {"receipt": str(last)})}
            pieces.append(frame("SEND", headers, body_of(name, life, number, size)))
        if group > 1:
            pieces.append(frame("COMMIT", {"transaction": "t", "receipt": str(last)}))
        following = last
        return b"".join(pieces)

    for found in stream.batches():
        free = 0
        for command, headers, _ in found:
            if command == "RECEIPT":
                free += 1
                kept = headers["receipt-id"]
                say(f"kept {kept}")
            elif command == "CONNECTED":
                free = WINDOW
        data = b""
        while free and following < first + count:
            data += more()
            free -= 1
        if data:
            say(f"sent {following}")
            stream.send(data)


def take(stream: Stream, queue: str, prefetch: str, target: str | None = None) -> None:
    stream.send(
        frame("SUBSCRIBE", {"destination": queue, "id": "0", "ack": "client-individual", "prefetch-count": prefetch})
    )
    for found in stream.batches():
        data = b""
        for command, headers, body in found:
            if command == "MESSAGE":
                key = body.split(b" ", 1)[0].decode()
                say(f"got {key}")
                if target is None:
                    data += frame("ACK", {"id": headers["ack"], "receipt": key})
                else:
                    data += frame("BEGIN", {"transaction": "t"})
                    data += frame("ACK", {"id": headers["ack"], "transaction": "t"})
                    data += frame("SEND", {"destination": target, "transaction": "t"}, body)
                    data += frame("COMMIT", {"transaction": "t", "receipt": key})
            elif command == "RECEIPT":
                say(f"done {headers['receipt-id']}")
        stream.send(data)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        stream = Stream(int(sys.argv[1]))
    except ConnectionError:
        sys.exit()  # killed before we came
    mode, *rest = sys.argv[2:]
    if mode == "put":
        put(stream, rest[0], rest[1], *map(int, rest[2:]))
    elif mode == "take":
        take(stream, rest[0], rest[1])
    else:
        take(stream, rest[0], rest[2], target=rest[1])
