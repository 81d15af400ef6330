"""The byte-level suite: golden stores truncated at every offset, every bit flipped, every sector and file spoilt.

    python tests/store/mutate.py                    everything, a few minutes
    python tests/store/mutate.py --stride 101       every 101st mutation of each kind

After each mutation a start must refuse, or find the same messages, those without the unsynced tail, or either without
messages that it reports as set aside; and in each single case it must be of the same opinion as the other reader, so
that refusing always is no answer.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "golden", HERE.parent.parent):  # what is installed comes first
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from make import load  # noqa: E402
from model import State, Violation, disk_with, judge  # noqa: E402
from reader import BLOCK, MustRefuse, read_store  # noqa: E402
from simdisk import SECTOR  # noqa: E402

Files = Mapping[str, bytes]
Mutation = tuple[str, Callable[[], Files]]


def truncations(files: Files) -> Iterator[Mutation]:
    """Every file cut at every offset."""
    for path, data in files.items():
        for size in range(len(data)):
            yield f"{path} cut to {size}", lambda path=path, data=data, size=size: {**files, path: data[:size]}


def flips(files: Files) -> Iterator[Mutation]:
    """Every bit of every file turned."""

    def flipped(path: str, data: bytes, bit: int) -> Files:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        return {**files, path: bytes(changed)}

    for path, data in files.items():
        for bit in range(8 * len(data)):
            yield f"{path} bit {bit}", lambda path=path, data=data, bit=bit: flipped(path, data, bit)


def sectors(files: Files) -> Iterator[Mutation]:
    """Every sector zeroed, written over its neighbours, put in twice, left out, and swapped with the next seven."""

    def spliced(path: str, *pieces: bytes) -> Files:
        return {**files, path: b"".join(pieces)}

    for path, data in files.items():
        for at in range(0, len(data), SECTOR):
            head, sector, rest = data[:at], data[at : at + SECTOR], data[at + SECTOR :]
            where = f"{path} sector {at // SECTOR}"
            yield f"{where} zeroed", lambda p=path, h=head, s=sector, r=rest: spliced(p, h, bytes(len(s)), r)
            yield f"{where} put in twice", lambda p=path, h=head, s=sector, r=rest: spliced(p, h, s, s, r)
            yield f"{where} left out", lambda p=path, h=head, r=rest: spliced(p, h, r)
            yield f"{where} over the next", lambda p=path, h=head, s=sector, r=rest: spliced(p, h, s, s, r[SECTOR:])
            for far in range(1, 9):
                other = data[at + far * SECTOR : at + (far + 1) * SECTOR]
                between, behind = data[at + SECTOR : at + far * SECTOR], data[at + (far + 1) * SECTOR :]
                if other:
                    yield (
                        f"{where} swapped with the {far}. behind it",
                        lambda p=path, h=head, o=other, b=between, s=sector, r=behind: spliced(p, h, o, b, s, r),
                    )


def blocks(files: Files) -> Iterator[Mutation]:
    """Every block of every segment over every other one, of the same segment or another."""

    def copied(target: str, at: int, block: bytes) -> Files:
        data = files[target]
        return {**files, target: data[:at] + block + data[at + BLOCK :]}

    segments = [path for path in files if path.endswith(".seg")]
    places = [(path, at) for path in segments for at in range(0, len(files[path]), BLOCK)]
    for path, at in places:
        block = files[path][at : at + BLOCK]
        for target, to in places:
            if (path, at) != (target, to):
                yield f"{path} {at} over {target} {to}", lambda t=target, to=to, b=block: copied(t, to, b)


def whole_files(files: Files) -> Iterator[Mutation]:
    """Every file removed, emptied, under another's name, and swapped with another."""
    for path, data in files.items():
        yield f"{path} removed", lambda path=path: {name: d for name, d in files.items() if name != path}
        yield f"{path} emptied", lambda path=path: {**files, path: b""}
        for other, theirs in files.items():
            if other != path:
                yield f"{path} over {other}", lambda d=data, other=other: {**files, other: d}
                yield f"{path} and {other}", lambda p=path, d=data, o=other, t=theirs: {**files, p: t, o: d}
    newest = max(path for path in files if path.endswith(".seg"))
    beyond = f"log/{int(newest[4:12]) + 1:08d}.seg"
    yield f"{newest} twice", lambda: {**files, beyond: files[newest]}
    yield f"{newest} is no birth", lambda: {**files, f"{beyond}.tmp": files[newest]}


KINDS = (truncations, flips, sectors, blocks, whole_files)


def tail_states(files: Files) -> list[State]:
    """What may be found: everything, and everything without the batches behind what was synced."""
    found = read_store(files)
    path = f"log/{found.end >> 32:08d}.seg"
    data = files[path]
    ends = range(found.durable & 0xFFFFFFFF, (found.end & 0xFFFFFFFF) + 1, BLOCK)
    return [read_store({**files, path: data[:end]}).bodies() for end in ends]


def hold(what: str, files: Files, allowed: list[State]) -> str:
    """One mutated store; what came of it. Violation where that may not be."""
    try:
        verdict = judge(disk_with(files))
        if verdict.refused:
            return "refused"
        if "FORMAT" not in files:
            raise Violation("a store without FORMAT was taken for a new one")
        for number, state in enumerate(reversed(allowed)):
            left = {
                name: {id for id in messages if (name, id) not in verdict.set_aside} for name, messages in state.items()
            }
            if left == {name: set(messages) for name, messages in verdict.state.items()}:
                for name, messages in verdict.state.items():
                    if any(not state[name][id].endswith(body) for id, body in messages.items()):
                        raise Violation(f"{name} has other bytes")
                return "set aside" if verdict.set_aside else "tail cut" if number else "same"
    except Exception as error:
        raise Violation(f"{what}: {type(error).__name__}: {error}") from error
    raise Violation(f"{what}: messages are missing, or were never sent")


def mutate(files: Files, kind: Callable[[Files], Iterator[Mutation]], stride: int, offset: int = 0) -> Counter[str]:
    """Every `stride`-th mutation of a kind: how often which outcome."""
    allowed = tail_states(files)
    outcomes: Counter[str] = Counter()
    for number, (what, change) in enumerate(kind(files)):
        if number % stride == offset % stride:
            try:
                outcomes[hold(what, change(), allowed)] += 1
            except MustRefuse as error:
                raise Violation(f"{what}: {error}") from error
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description="Every byte and bit of the golden stores spoilt.")
    parser.add_argument("--stride", type=int, default=1, help="only every that many-th mutation of each kind")
    stride = parser.parse_args().stride
    for path in sorted((HERE.parent / "golden").glob("*/*.tar.gz")):
        files = load(path)
        for kind in KINDS:
            start = time.monotonic()
            outcomes = mutate(files, kind, stride)
            text = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
            name = f"{path.parent.name}/{path.name.partition('.')[0]} {kind.__name__}"
            sys.stdout.write(f"{name:<24} {outcomes.total():>8}: {text}; {time.monotonic() - start:.0f} s\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
