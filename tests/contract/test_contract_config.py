"""The contract, the file: what is wrong is named by file:line:column and the nearest key; what is right acts."""

from __future__ import annotations

import os
import re

import pytest
from contract_peer import House
from test_contract_cli import run

WRONG = """\
listen:
  stmp: 127.0.0.1:0
data_dir: never/made
fsync: 50
crate: true
max_prefetch: none
limits: {frames: 4MiB, headers: 0, connect_timeout: 10, output: 8MB iB, queues: -1}
disk: {stop_fre: 256MiB}
defaults: {persistant: true}
destinations:
  /queue/a: {type: que}
  /queue/b: {type: queue, overflow: reject}
  /queue/c: {type: queue, persistent: false, overflow: drop-newest}
  /queue/d: {type: queue, max_delivery: 5}
  /fanout/e: {type: fanout, queues: []}
  /topic/f: {type: topic, persistent: true}
  /temp-queue/g: {type: queue}
"""
EXPECTED = [
    ("2:3", "'stomp'"),
    ("4:8", "fsync"),
    ("5:1", "'create'"),
    ("6:15", "max_prefetch"),
    ("7:10", "'frame'"),
    ("7:33", "limits.headers"),
    ("7:53", "limits.connect_timeout"),
    ("7:65", "limits.output"),
    (f"7:{WRONG.splitlines()[6].index('-1') + 1}", "limits.queues"),
    ("8:8", "'stop_free'"),
    ("9:12", "'persistent'"),
    ("11:20", "'queue'"),
    ("12:27", "overflow"),
    ("13:56", "overflow"),
    ("14:27", "'max_deliveries'"),
    ("16:27", "persistent"),
    ("17:3", "temp-queue"),
]


@pytest.mark.parametrize("command", [["check-config"], ["-c"]])
def test_errors_name_file_line_column_and_the_nearest_key_and_nothing_is_opened(tmp_path, command):
    (tmp_path / "bad.yaml").write_text(WRONG)
    done = run(*command, "bad.yaml", cwd=tmp_path)
    assert done.returncode == 78
    text = done.stderr.decode()
    for place, words in EXPECTED:
        assert re.search(rf"bad\.yaml:{place}: .*{re.escape(words)}", text), (place, words, text)
    assert os.listdir(tmp_path) == ["bad.yaml"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("listen: {stomp: [::1]:61613}\n", "1:"),
        ("destinations:\n  /fanout/a: {type: fanout, queues: [/topic/b]}\n  /topic/b: {type: topic}\n", "2:"),
        ("destinations:\n  /queue/a: {type: queue, dead_letter: b}\n  b: {type: queue, persistent: false}\n", "2:"),
    ],
)  # fmt: skip
def test_one_mistake(tmp_path, text, place):
    (tmp_path / "bad.yaml").write_text(text)
    done = run("check-config", "bad.yaml", cwd=tmp_path)
    assert done.returncode == 78
    assert f"bad.yaml:{place}" in done.stderr.decode()


def test_check_config_opens_nothing(tmp_path):
    (tmp_path / "good.yaml").write_text("data_dir: not/made\nlisten: {stomp: '[::1]:0'}\n")
    done = run("check-config", "good.yaml", cwd=tmp_path)
    assert done.returncode == 0
    assert os.listdir(tmp_path) == ["good.yaml"]


EXAMPLE = """\
fsync: 50ms
max_prefetch: 1000
limits: {frame: 4MiB, headers: 64, header_line: 8KiB, connections: 10000, subscriptions: 256, output: 8MiB,
         connect_timeout: 10s, transaction: 16MiB, transactions: 16, queues: 10000,
         frame_timeout: 30s, stall_timeout: 60s}
disk: {stop_free: 256MiB}
defaults: {persistent: true}
destinations:
  /queue/orders: {type: queue, persistent: true, max_deliveries: 5, dead_letter: /queue/orders.dead}
  /queue/thumbnails: {type: queue, persistent: false, max_messages: 100000, overflow: reject}
  /fanout/signup: {type: fanout, queues: [/queue/mail, /queue/crm]}
  /topic/chat: {type: topic}
"""


def test_the_example_of_the_design_serves_and_create_is_false_unless_said(tmp_path):
    """`a name in queues or dead_letter is declared thereby`."""
    with House(tmp_path, EXAMPLE) as house:
        with house.connect() as client:
            for name in ("orders", "orders.dead", "thumbnails", "mail", "crm"):
                client.put(f"/queue/{name}", "x")
            client.put("/fanout/signup", "x")
            client.put("/topic/chat", "x")
            client.refused("SEND", {"destination": "/queue/new"}, text="unknown destination")
        assert house.terminate() == 0


@pytest.mark.parametrize("persistent", [True, False])
def test_defaults_persistent_says_it_for_queues_made_by_clients(tmp_path, persistent):
    config = f"create: true\ndefaults: {{persistent: {str(persistent).lower()}}}\n"
    with House(tmp_path, config) as house:
        with house.connect() as client:
            client.put("/queue/a", "x")
        assert house.terminate() == 0
    with House(tmp_path, config) as house, house.connect() as client:
        client.subscribe("/queue/a", ack="auto")
        if persistent:
            client.message("x")
        else:
            client.nothing()


def test_memory_queues_always_have_bounds(tmp_path):
    """100000 messages unless said."""
    config = "create: true\ndefaults: {persistent: false}\n"
    with House(tmp_path, config) as house, house.connect() as client:
        frame = b"SEND\ndestination:/queue/a\n\n\0"
        client.sock.sendall(frame * 99_999)
        client.put("/queue/a", "the last")
        client.refused("SEND", {"destination": "/queue/a"}, text="100000")


def test_disk_stop_free_refuses_persistent_sends_and_nothing_else(tmp_path):
    """Far more must be free than there is: `persistent SENDs get ERROR while consumers drain`."""
    with House(tmp_path) as house:
        with house.connect() as client:
            client.put("/queue/a", "a", "b")
        assert house.terminate() == 0
    config = "create: true\ndisk: {stop_free: 1000TiB}\ndestinations: {/queue/m: {type: queue, persistent: false}}\n"
    with House(tmp_path, config) as house:
        with house.connect() as client:
            client.refused("SEND", {"destination": "/queue/a"}, text="disk.stop_free")
        with house.connect() as client:
            client.put("/queue/m", "x")
            client.put("/topic/t", "x")
            client.subscribe("/queue/a", ack="client")
            for body in "ab":
                client.ask("ACK", {"id": client.message(body)["ack"]})
        assert house.terminate() == 0
