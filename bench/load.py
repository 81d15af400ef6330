"""A load for a running broker: producers with a window of receipts, or consumers that drain a queue.

    python bench/load.py -P 61613 put -n 20000 -c 20 -w 10 -s 100
    python bench/load.py -P 61613 get -n 20000 -c 20

It speaks just enough STOMP for that: frames are counted and searched, not parsed. It must never import radiator: what
measures the broker shares nothing with it. Called by: `bench/end_to_end.py`, and by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import selectors
import socket
import time

__all__ = ["get", "put"]

_CONNECT = b"CONNECT\naccept-version:1.2\nhost:/\nheart-beat:0,0\n\n\0"
_ACK = re.compile(rb"\nack:([^\n]*)\n")
PATIENCE_SECONDS = 60.0


class _Peer:
    """One connection that has shaken hands."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address, timeout=PATIENCE_SECONDS)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(_CONNECT)
        answer = b""
        while not answer.endswith(b"\0"):
            answer += self.sock.recv(65536)
        if not answer.startswith(b"CONNECTED"):
            raise ConnectionError(answer.decode(errors="replace"))
        self.rest = b""
        self.left = 0
        self.waiting = 0


def _run(peers: list[_Peer], total: int, step) -> float:
    """Call `step(peer, data)` with what comes until it has answered for `total` in all; the seconds that took."""
    selector = selectors.DefaultSelector()
    for peer in peers:
        selector.register(peer.sock, selectors.EVENT_READ, peer)
    start = time.perf_counter()
    done = 0
    try:
        while done < total:
            events = selector.select(PATIENCE_SECONDS)
            if not events:
                raise TimeoutError(f"{done} of {total}, and nothing came for {PATIENCE_SECONDS:g} s")
            for key, _ in events:
                data = key.data.sock.recv(1 << 18)
                if not data or b"ERROR\n" in data:
                    raise ConnectionError(f"the broker ended it: {data[:300]!r}")
                done += step(key.data, data)
        return time.perf_counter() - start
    finally:
        selector.close()
        for peer in peers:
            peer.sock.close()


def put(address: tuple[str, int], total: int, producers: int, window: int, size: int, queue: str) -> float:
    """Send `total` messages of `size` bytes, each producer with `window` receipts outstanding; the seconds taken."""
    frame = f"SEND\ndestination:{queue}\nreceipt:1\ncontent-length:{size}\n\n".encode() + b"x" * size + b"\0"
    peers = [_Peer(address) for _ in range(producers)]
    for number, peer in enumerate(peers):
        peer.left = total // producers + (number < total % producers)
        first = min(window, peer.left)
        peer.left -= first
        peer.sock.sendall(frame * first)

    def step(peer: _Peer, data: bytes) -> int:
        count = data.count(b"\0")  # a RECEIPT has no body: one NUL each
        more = min(count, peer.left)
        if more:
            peer.left -= more
            peer.sock.sendall(frame * more)
        return count

    return _run(peers, total, step)


def get(address: tuple[str, int], total: int, consumers: int, queue: str) -> float:
    """Drain `total` messages with ack:client-individual, one un-ACKed each; the seconds taken."""
    peers = [_Peer(address) for _ in range(consumers)]
    for peer in peers:
        peer.sock.sendall(f"SUBSCRIBE\nid:0\ndestination:{queue}\nack:client-individual\n\n\0".encode())

    def step(peer: _Peer, data: bytes) -> int:
        whole, _, peer.rest = (peer.rest + data).rpartition(b"\0")
        acks = _ACK.findall(whole)
        if acks:
            peer.sock.sendall(b"".join([b"ACK\nid:" + ack + b"\n\n\0" for ack in acks]))
        return len(acks)

    return _run(peers, total, step)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("put", "get"))
    parser.add_argument("-a", dest="host", default="127.0.0.1")
    parser.add_argument("-P", dest="port", type=int, default=61613)
    parser.add_argument("-n", dest="total", type=int, default=20000, help="messages in all")
    parser.add_argument("-c", dest="connections", type=int, default=20)
    parser.add_argument("-w", dest="window", type=int, default=10, help="receipts outstanding per producer")
    parser.add_argument("-s", dest="size", type=int, default=100, help="bytes of body")
    parser.add_argument("-d", dest="queue", default="/queue/bench")
    options = parser.parse_args()
    address = (options.host, options.port)
    if options.mode == "put":
        seconds = put(address, options.total, options.connections, options.window, options.size, options.queue)
    else:
        seconds = get(address, options.total, options.connections, options.queue)
    print(
        json.dumps({"mode": options.mode, "messages": options.total, "seconds": round(seconds, 3),
                    "msgs_per_s": round(options.total / seconds)})
    )  # fmt: skip


if __name__ == "__main__":
    main()
