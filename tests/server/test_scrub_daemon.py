"""A daemon that starts from a saved index verifies the log behind it, and tells what it finds at the right level."""

from __future__ import annotations

import select

from daemon import Daemon

from radiator.message import Message
from radiator.store.base import Unit
from radiator.store.file.engine import FileStore


def test_the_log_is_verified_behind_a_start_from_the_saved_index(tmp_path):
    """A message is damaged, and the header of a batch: both are told, everything else is delivered."""
    data = tmp_path / "data"
    store = FileStore(str(data), segment_bytes=65536, index_from=0)
    store.open(0.0, 1)
    queue = store.declare("/queue/a")
    for number in range(30):
        unit = Unit()
        unit.put(Message(12, True, b"destination:/queue/a\n", b"%02d" % number * 5000), [queue])
        mark = store.append(unit)
        store.flush()
        while store.committed < mark:
            select.select(store.filenos(), [], [], 1)
            store.completed()
    store.close()
    segments = sorted((data / "log").glob("*.seg"))[1:-1]
    assert len(segments) > 3
    for segment, offset in ((segments[0], 8192 + 1000), (segments[2], 8192 + 9)):
        spoilt = bytearray(segment.read_bytes())
        spoilt[offset] ^= 1
        segment.write_bytes(spoilt)
    with Daemon(tmp_path, data_dir=data, log_level="info") as daemon:
        end = daemon.wait_for_line("the log was verified")
        assert " info the log was verified segments=" in end
        assert end.endswith(" damaged=2")
        aside = daemon.wait_for_line("message is damaged and was set aside")
        assert " warning message is damaged and was set aside queue=/queue/a id=" in aside
        broken = daemon.wait_for_line("segment is damaged")
        assert f" error segment is damaged path={segments[2]} offset=8192 reason=" in broken
        with daemon.connect() as client:
            client.send("SUBSCRIBE", {"destination": "/queue/a", "id": "1", "ack": "auto"})
            bodies = {client.frame()[2] for _ in range(29)}
        assert len(bodies) == 29
        assert daemon.terminate() == 0
    assert (data / "quarantine" / f"{segments[2].stem}.keep").exists()
