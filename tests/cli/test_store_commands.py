"""The commands `radiator store …` on real files: what they print, what they leave alone, how they end.

The store is on the real disk; where a broker runs beside them, it is a real one under load.
"""

from __future__ import annotations

import base64
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from daemon import PATIENCE, Daemon
from stores import ARRIVAL_MS, contents, lines, log_files, make, put, turn, with_index

from radiator.cli.commands import run
from radiator.errors import StoreDamaged
from radiator.store.base import Unit
from radiator.store.file import engine
from radiator.store.file.cache import save_index
from radiator.store.file.fsio import RealFsio
from radiator.store.file.recovery import QUEUE_HOLE

Output = pytest.CaptureFixture[str]
A = QUEUE_HOLE + 1
B = QUEUE_HOLE + 2
"""The numbers of the two queues: a store begins with an unclean start."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A store of three segments: /queue/a with ids 1, 3 to 12 (2 was acknowledged), /queue/b with one message."""
    directory = tmp_path / "data"
    store = make(directory)
    put(store, "/queue/a", b"first", b"second", block=b"destination:/queue/a\nk\\cey:a\\nb\nk:1\nk:2\n")
    put(store, "/queue/a", *(b"%d" % number + b"x" * 5000 for number in range(3, 13)))
    put(store, "/queue/b", b"\xff\x00", b"" * 2)
    held = store.claim(store.declare("/queue/a"), 2, 10000)
    unit = Unit()
    unit.settle(held[1].queue, held[1].id)
    store.append(unit)
    turn(store)
    store.release(held[0].queue, [held[0].id], delivered=False)
    store.close()
    return directory


def harm(directory: Path, what: bytes = b"7xxxx") -> Path:
    """Flip a bit in the body of message 7; the file."""
    path = next(path for path in log_files(directory) if what in path.read_bytes())
    data = bytearray(path.read_bytes())
    data[data.index(what) + 100] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("deep", [[], ["--deep"]])
def test_check_of_a_whole_store(data: Path, capsys: Output, deep: list[str]) -> None:
    before = contents(data)
    assert run(["store", "check", "--data-dir", str(data), *deep]) == 0
    told = capsys.readouterr()
    assert "13 messages in 2 queues" in told.out
    assert told.out.endswith("whole: no damage was found\n")
    assert told.err == ""
    assert contents(data) == before


def test_check_names_place_queue_and_message(data: Path, capsys: Output) -> None:
    path = harm(data)
    before = contents(data)
    assert run(["store", "check", "--data-dir", str(data), "--deep"]) == 65
    told = capsys.readouterr().out
    assert f"damage: {path} offset " in told
    assert f"[queue /queue/a, message {A}-7]" in told
    assert "DAMAGED: a broker" in told
    assert run(["store", "check", "--data-dir", str(data), "--deep", "--json"]) == 65
    (finding,) = [line for line in lines(capsys.readouterr().out) if line["level"] == "damage"]
    assert (finding["kind"], finding["queue"], finding["number"], finding["ids"]) == (
        "message",
        "/queue/a",
        A,
        [[7, 7]],
    )
    assert (finding["path"], finding["segment"]) == (str(path), int(path.stem))
    assert contents(data) == before


def test_check_looks_at_the_saved_index(data: Path, capsys: Output) -> None:
    command = ["store", "check", "--data-dir", str(data)]
    assert run([*command, "--json"]) == 0
    assert not capsys.readouterr().out
    index = with_index(data)
    assert run(command) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"note: {index}: the saved index says what the log says, and is used by a start\n")
    assert told.endswith("whole: no damage was found\n")
    index.write_bytes(index.read_bytes()[:-1])
    assert run([*command, "--json"]) == 0
    (finding,) = lines(capsys.readouterr().out)
    assert (finding["level"], finding["kind"], finding["path"]) == ("note", "index", str(index))
    assert "is ignored by a start" in finding["what"]


def test_check_of_an_index_that_differs_says_what_to_do(
    data: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(fsio: Any, names: Any, store_id: Any, ledger: Any, *rest: Any, **options: Any) -> None:
        ledger.kill(ledger.queues[A], 7, 7)
        save_index(fsio, names, store_id, ledger, *rest, **options)

    monkeypatch.setattr(engine, "save_index", wrong)
    index = with_index(data)
    assert run(["store", "check", "--data-dir", str(data)]) == 65
    told = capsys.readouterr().out
    assert f"damage: {index}: the saved index differs from the log: queue /queue/a: " in told
    assert told.splitlines()[-1].startswith("DAMAGED: the log is whole; remove the saved index while no broker runs")
    index.unlink()
    assert run(["store", "check", "--data-dir", str(data)]) == 0


def test_check_of_a_log_that_only_its_index_lets_start(data: Path, capsys: Output) -> None:
    index = with_index(data)
    path = log_files(data)[0]
    spoilt = bytearray(path.read_bytes())
    spoilt[4096 + 9] ^= 1
    path.write_bytes(spoilt)
    assert run(["store", "check", "--data-dir", str(data)]) == 65
    told = capsys.readouterr().out
    assert f"note: {index}: the saved index is used by a start; it was not held against the log" in told
    assert "DAMAGED: a broker starts on this store only as long as its saved index is of use" in told
    assert "radiator store repair" in told.splitlines()[-1]
    assert run(["store", "repair", "--data-dir", str(data), "--yes"]) == 0
    capsys.readouterr()
    assert run(["store", "check", "--deep", "--data-dir", str(data)]) == 0
    assert "the saved index is ignored by a start" in capsys.readouterr().out


def test_check_says_why_a_broker_does_not_start(data: Path, capsys: Output) -> None:
    log_files(data)[-1].unlink()
    assert run(["store", "check", "--data-dir", str(data)]) == 65
    told = capsys.readouterr().out
    assert "DAMAGED: a broker does not start on this store" in told
    assert "radiator store repair" in told


@pytest.mark.parametrize("command", [["check"], ["dump"], ["stats"], ["repair"], ["snapshot", "elsewhere"]])
def test_where_there_is_no_store(command: list[str], tmp_path: Path, capsys: Output) -> None:
    for name in ("absent", "empty", "other"):
        directory = tmp_path / name
        if name != "absent":
            directory.mkdir()
        if name == "other":
            (directory / "file").write_text("x")
        assert run(["store", *command, "--data-dir", str(directory)]) == 74
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.startswith(f"radiator: {directory}")
        assert told.err.count("\n") == 1
        assert not directory.exists() or [path.name for path in directory.iterdir()] == ["file"] * (name == "other")


def test_the_directory_may_come_from_a_configuration(data: Path, tmp_path: Path, capsys: Output) -> None:
    config = tmp_path / "radiator.yaml"
    config.write_text(f"data_dir: {data}\n")
    assert run(["store", "check", "-c", str(config)]) == 0
    assert run(["store", "check", "-c", str(tmp_path / "none.yaml")]) == 78
    assert run(["store", "check", "--data-dir", ""]) == 64
    assert run(["store", "chekc"]) == 64
    assert run(["store", "snapshot"]) == 64
    capsys.readouterr()


def test_the_default_is_that_of_the_broker(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    data.rename(tmp_path / "radiator-data")
    monkeypatch.chdir(tmp_path)
    assert run(["store", "stats"]) == 0
    capsys.readouterr()


def test_dump(data: Path, capsys: Output) -> None:
    before = contents(data)
    assert run(["store", "dump", "--data-dir", str(data)]) == 0
    told = lines(capsys.readouterr().out)
    assert [line["message_id"] for line in told] == [
        f"{A}-1",
        *(f"{A}-{id}" for id in range(3, 13)),
        f"{B}-1",
        f"{B}-2",
    ]
    first = told[0]
    assert first["queue"] == "/queue/a"
    assert first["headers"] == {"destination": "/queue/a", "k:ey": "a\nb", "k": "1"}
    assert (first["body_bytes"], first["arrival"], first["deliveries"]) == (5, "2023-11-14T22:13:20.123Z", 0)
    assert "body" not in first
    assert contents(data) == before


def test_dump_with_bodies_of_one_queue(data: Path, capsys: Output) -> None:
    assert run(["store", "dump", "--data-dir", str(data), "--bodies", "--queue", "/queue/b"]) == 0
    binary, empty = lines(capsys.readouterr().out)
    assert base64.b64decode(binary["body_base64"]) == b"\xff\x00"
    assert empty["body"] == ""
    assert run(["store", "dump", "--data-dir", str(data), "--queue", "/queue/none"]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "no queue '/queue/none'" in told.err


def test_dump_of_the_dead_and_of_records(data: Path, capsys: Output) -> None:
    assert run(["store", "dump", "--data-dir", str(data), "--dead", "--bodies"]) == 0
    (dead,) = [line for line in lines(capsys.readouterr().out) if "settled" in line]
    assert (dead["message_id"], dead["body"]) == (f"{A}-2", "second")
    assert run(["store", "dump", "--data-dir", str(data), "--records"]) == 0
    told = lines(capsys.readouterr().out)
    assert {"type": "settled", "queue": A, "reason": "acked", "first": 2, "last": 2}.items() <= told[-1].items()
    assert run(["store", "dump", "--data-dir", str(data), "--records", "--bodies"]) == 64
    capsys.readouterr()


def test_dump_of_a_broken_store_goes_on_behind_the_damage(data: Path, capsys: Output) -> None:
    path = harm(data)
    log_files(data)[0].unlink()
    broken = bytearray(path.read_bytes())
    broken[4096:4200] = bytes(104)
    path.write_bytes(broken)
    assert run(["store", "dump", "--data-dir", str(data)]) == 65
    told = capsys.readouterr()
    assert "damage" in told.err
    ids = [line["message_id"] for line in lines(told.out) if "error" not in line]
    assert {f"{A}-6", f"{A}-8", f"{B}-1"} <= set(ids)
    assert f"{A}-7" not in ids


def test_stats(data: Path, capsys: Output) -> None:
    assert run(["store", "stats", "--data-dir", str(data), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(row["queue"], row["messages"]) for row in told["queues"]] == [("/queue/a", 11), ("/queue/b", 2)]
    assert told["totals"]["messages"] == 13
    assert told["totals"]["log_bytes"] == sum(path.stat().st_size for path in log_files(data))
    held = [row for row in told["segments"] if row["pinned_by"]]
    assert held[0]["pinned_by"] == {"queue": "/queue/a", "number": A, "id": 1, "arrival_ms": ARRIVAL_MS}
    assert run(["store", "stats", "--data-dir", str(data)]) == 0
    text = capsys.readouterr().out
    assert "/queue/a" in text
    assert f"is held by message {A}-1 of /queue/a, from 2023-11-14T22:13:20.123Z" in text


def test_repair_first_says_then_does(data: Path, capsys: Output) -> None:
    path = harm(data)
    original = path.read_bytes()
    assert run(["store", "repair", "--data-dir", str(data)]) == 65
    told = capsys.readouterr().out
    assert f"gone: /queue/a: message {A}-7 (damaged)\n1 message gone\n" in told
    assert "nothing was changed; add --yes" in told
    assert path.read_bytes() == original
    assert run(["store", "repair", "--data-dir", str(data), "--yes", "--json"]) == 0
    output = capsys.readouterr()
    assert lines(output.out) == [{"queue": "/queue/a", "number": A, "first": 7, "last": 7, "why": "damaged"}]
    assert "repaired" in output.err
    assert (data / "quarantine" / path.name).read_bytes() == original
    assert not path.exists()
    assert run(["store", "check", "--data-dir", str(data), "--deep"]) == 0
    assert "quarantine" in capsys.readouterr().out
    assert run(["store", "repair", "--data-dir", str(data)]) == 0
    assert "nothing to repair" in capsys.readouterr().out
    store = make(data)
    queue = store.declare("/queue/a")
    assert [delivery.id for delivery in store.claim(queue, 20, 1 << 20)] == [1, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    store.close()


def test_those_that_write_want_the_lock(data: Path, tmp_path: Path, capsys: Output) -> None:
    lock = RealFsio().lock(str(data / "lock"))
    before = contents(data)
    assert run(["store", "repair", "--yes", "--data-dir", str(data)]) == 69
    assert "is in use by another radiator" in capsys.readouterr().err
    assert run(["store", "check", "--data-dir", str(data)]) == 0
    assert run(["store", "snapshot", str(tmp_path / "snap"), "--data-dir", str(data)]) == 0
    assert run(["store", "restore", str(tmp_path / "snap"), "--data-dir", str(data)]) == 69
    RealFsio().close(lock)
    assert contents(data) == before
    capsys.readouterr()


def test_snapshot_and_restore(data: Path, tmp_path: Path, capsys: Output) -> None:
    before = contents(data)
    saved, restored = tmp_path / "saved", tmp_path / "restored"
    assert run(["store", "snapshot", str(saved), "--data-dir", str(data)]) == 0
    assert "linked" in capsys.readouterr().out
    assert contents(data) == before
    assert (saved / "manifest").read_text().startswith("radiator-snapshot 1\n")
    linked = [path for path in log_files(saved) if path.stat().st_nlink == 2]
    assert len(linked) == len(log_files(data)) - 1
    assert run(["store", "check", "--deep", "--data-dir", str(saved)]) == 0
    assert run(["store", "restore", str(saved), "--data-dir", str(restored)]) == 0
    capsys.readouterr()
    run(["store", "dump", "--bodies", "--data-dir", str(data)])
    original = capsys.readouterr().out
    run(["store", "dump", "--bodies", "--data-dir", str(restored)])
    assert capsys.readouterr().out == original
    assert run(["store", "snapshot", str(saved), "--data-dir", str(data)]) == 74
    (saved / "manifest").unlink()
    assert run(["store", "restore", str(saved), "--data-dir", str(tmp_path / "third")]) == 65
    assert "no snapshot, or one that did not come to its end" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()


def test_a_damaged_message_of_a_backup_is_named_and_the_rest_restored(
    data: Path, tmp_path: Path, capsys: Output
) -> None:
    saved, restored = tmp_path / "saved", tmp_path / "restored"
    assert run(["store", "snapshot", str(saved), "--data-dir", str(data)]) == 0
    shutil.copytree(saved, tmp_path / "elsewhere")
    path = harm(tmp_path / "elsewhere")
    capsys.readouterr()
    assert run(["store", "restore", str(tmp_path / "elsewhere"), "--data-dir", str(restored)]) == 65
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith(f"radiator: damage: {restored / 'log' / path.name} offset ")
    assert line.endswith(f"the message is damaged and will not be delivered [queue /queue/a, message {A}-7]")
    assert "complete, and a broker starts on it" in told.out
    assert not (restored / "incomplete.tmp").exists()
    store = make(restored)
    queue = store.declare("/queue/a")
    assert [delivery.id for delivery in store.claim(queue, 20, 1 << 20)] == [1, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    store.close()


def test_a_backup_on_which_no_broker_starts_makes_no_store(data: Path, tmp_path: Path, capsys: Output) -> None:
    saved, restored = tmp_path / "saved", tmp_path / "restored"
    assert run(["store", "snapshot", str(saved), "--data-dir", str(data)]) == 0
    shutil.copytree(saved, tmp_path / "elsewhere")
    path = log_files(tmp_path / "elsewhere")[0]
    broken = bytearray(path.read_bytes())
    broken[4096] ^= 1  # the head of a batch
    path.write_bytes(broken)
    capsys.readouterr()
    assert run(["store", "restore", str(tmp_path / "elsewhere"), "--data-dir", str(restored)]) == 65
    told = capsys.readouterr()
    assert told.out == ""
    assert path.name in told.err
    assert not (restored / "FORMAT").exists()
    with pytest.raises(StoreDamaged, match="has not come to its end"):
        make(restored)
    assert run(["store", "restore", str(saved), "--data-dir", str(restored)]) == 0


def test_a_snapshot_names_a_damaged_message_of_the_newest_segment(data: Path, tmp_path: Path, capsys: Output) -> None:
    store = make(data)
    put(store, "/queue/a", b"13" + b"x" * 5000)
    put(store, "/queue/a", b"14" + b"x" * 5000)
    assert harm(data, b"13xxxx") == log_files(data)[-1]
    assert run(["store", "snapshot", str(tmp_path / "saved"), "--data-dir", str(data)]) == 65
    told = capsys.readouterr()
    store.close()
    (line,) = told.err.splitlines()
    assert line.endswith(f"[queue /queue/a, message {A}-13]")
    assert "complete, and a broker starts on it" in told.out
    assert (tmp_path / "saved" / "manifest").exists()
    assert run(["store", "restore", str(tmp_path / "saved"), "--data-dir", str(tmp_path / "restored")]) == 65
    make(tmp_path / "restored").close()


@pytest.mark.parametrize("fsync", ["always", "never"])
def test_beside_a_running_broker(fsync: str, tmp_path: Path, capsys: Output) -> None:
    """Under load: check and stats find no damage, and a snapshot has every message with a receipt from before it."""
    stop = threading.Event()
    receipted: list[int] = []
    enough = threading.Event()
    body = b"x" * 30000
    with (
        Daemon(tmp_path, f"create: true\nfsync: {fsync}\n") as daemon,
        daemon.connect() as client,
        daemon.connect() as other,
    ):
        other.send("SUBSCRIBE", {"destination": "/queue/b", "id": "1", "ack": "client-individual"})

        def load() -> None:
            number = 0
            while not stop.is_set():
                count = 20
                for _ in range(count):
                    number += 1
                    headers = {"destination": "/queue/a", "receipt": str(number), "n": str(number)}
                    client.send("SEND", {**headers, "content-length": str(len(body))}, body)
                    client.send("SEND", {"destination": "/queue/b"}, b"b")
                for _ in range(count):
                    _, headers, _ = client.frame()
                    receipted.append(int(headers["receipt-id"]))
                    _, headers, _ = other.frame()
                    other.send("ACK", {"id": headers["ack"]})
                if number >= 100:
                    enough.set()

        thread = threading.Thread(target=load)
        thread.start()
        try:
            assert enough.wait(PATIENCE)
            for attempt in range(2):
                known = set(receipted)
                directory = tmp_path / f"snapshot-{attempt}"
                assert run(["store", "snapshot", str(directory), "--data-dir", str(daemon.data_dir)]) == 0
                assert run(["store", "check", "--data-dir", str(daemon.data_dir)]) == 0, capsys.readouterr().out
                assert run(["store", "stats", "--data-dir", str(daemon.data_dir)]) == 0
                assert run(["store", "dump", "--data-dir", str(daemon.data_dir)]) == 0
                capsys.readouterr()
                assert run(["store", "dump", "--queue", "/queue/a", "--data-dir", str(directory)]) == 0
                found = [int(line["headers"]["n"]) for line in lines(capsys.readouterr().out)]
                assert found == list(range(1, len(found) + 1))
                assert known <= set(found)
        finally:
            stop.set()
            thread.join()
        assert daemon.terminate() == 0
    restored = tmp_path / "restored"
    assert run(["store", "restore", str(directory), "--data-dir", str(restored)]) == 0
    capsys.readouterr()
    (tmp_path / "again").mkdir()
    with Daemon(tmp_path / "again", data_dir=restored) as daemon, daemon.connect() as client:
        client.send("SUBSCRIBE", {"destination": "/queue/a", "id": "1", "ack": "client"})
        _, headers, received = client.frame()
        assert (headers["n"], received) == ("1", body)
