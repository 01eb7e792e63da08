"""The receiver as the hub, and everybody else, meets it."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import threading
import time

import pytest

from gmi_registry.regeneration.webhook_receiver import PAYLOAD_LIMIT
from tests.support.delivery import SECRET, body

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])

HEAD = "POST /webhook HTTP/1.1\r\nHost: x\r\n"


def sha(number):
    return f"{number:040x}"


def answer_of(receiver, *pieces):
    """Everything that the receiver says to these bytes, until it hangs up."""
    with socket.create_connection(receiver.address, timeout=30) as client:
        for piece in pieces:
            client.sendall(piece)
        return rest(client)


def rest(client):
    """What comes until the other side hangs up, politely or not."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(65536):
            found += data
    return found


def push(client, piece, times):
    """Send a piece so many times; how many were taken before the other side hung up."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    for done in range(times):
        try:
            client.sendall(piece)
        except ConnectionError:
            return done
    return times


def test_a_change_is_noted_and_accepted(receive):
    receiver = receive()
    reply = receiver.send(body("ada/style", sha(1)))
    assert (reply.status_code, reply.json()) == (202, {"queued": "ada/style"})
    assert receiver.send(body("ada/style", sha(1))).json() == {"waiting": "ada/style"}
    assert receiver.send(body("ada/style", sha(2))).json() == {"waiting": "ada/style"}
    assert receiver.health() == {"waiting": 1, "working": 0, "set_aside": 0, "capacity": 1000}


def test_what_is_not_concerned_is_answered_too(receive):
    receiver = receive()
    reply = receiver.send(body(ref="refs/pr/3"))
    assert (reply.status_code, reply.json()) == (200, {"ignored": "not the branch main"})
    assert receiver.health()["waiting"] == 0


def test_a_commit_of_ours_is_ignored(receive):
    receiver = receive()
    receiver.send(body("ada/style", sha(1)))
    receiver.queue.finish(receiver.queue.take(), sha(2))
    reply = receiver.send(body("ada/style", sha(2)))
    assert (reply.status_code, reply.json()) == (200, {"ignored": "ours"})
    assert receiver.send(body("ben/style", sha(2))).json() == {"queued": "ben/style"}


@pytest.mark.parametrize(
    "secret", [None, "", "x", SECRET[:-1], SECRET + "0", SECRET.upper(), SECRET[::-1], "é" * 32]
)
def test_without_the_secret_nothing_is_read(receive, secret):
    receiver = receive()
    given = secret if secret is None else secret.encode("latin-1")
    reply = receiver.send(body(), given)
    assert (reply.status_code, reply.json()) == (401, {"error": "the secret is missing or wrong"})
    assert reply.headers["connection"] == "close"
    assert receiver.health()["waiting"] == 0


def test_two_secrets_are_none(receive):
    lines = f"X-Webhook-Secret: {SECRET}\r\nX-Webhook-Secret: {SECRET}\r\nContent-Length: 2\r\n\r\n"
    assert b" 401 " in answer_of(receive(), (HEAD + lines).encode(), b"{}")


def test_a_long_body_that_is_announced_is_not_read(receive):
    """The answer comes, and the connection ends, before a byte of it was sent."""
    lines = f"X-Webhook-Secret: {SECRET}\r\nContent-Length: 10485760\r\n\r\n"
    start = time.monotonic()
    found = answer_of(receive(), (HEAD + lines).encode())
    assert found.startswith(b"HTTP/1.1 413 ")
    assert time.monotonic() - start < 5


def test_a_long_body_is_refused_once_it_is_too_long(receive):
    """In chunks, so that nobody knows beforehand: it stops being read, long before its end."""
    receiver = receive()
    lines = f"X-Webhook-Secret: {SECRET}\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with socket.create_connection(receiver.address, timeout=30) as client:
        client.sendall((HEAD + lines).encode())
        assert push(client, chunk, 1600) < 160
    assert receiver.health()["waiting"] == 0


def test_a_body_of_ten_megabytes_costs_nothing(receive):
    receiver = receive()
    lines = f"X-Webhook-Secret: {SECRET}\r\nContent-Length: 10485760\r\n\r\n"
    with socket.create_connection(receiver.address, timeout=30) as client:
        client.sendall((HEAD + lines).encode())
        assert push(client, b" " * 65536, 160) < 160
    assert receiver.send(body()).status_code == 202


@pytest.mark.parametrize("length", ["-1", "1e9", "ten", "9" * 400])
def test_an_impossible_length_is_refused(receive, length):
    lines = f"X-Webhook-Secret: {SECRET}\r\nContent-Length: {length}\r\n\r\n"
    found = answer_of(receive(), (HEAD + lines).encode())
    assert found[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 413 ")


def test_the_longest_payload_is_read(receive):
    receiver = receive()
    content = body()
    assert receiver.send(content + b" " * (PAYLOAD_LIMIT - len(content))).status_code == 202
    assert receiver.send(content + b" " * (PAYLOAD_LIMIT + 1 - len(content))).status_code == 413


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 60_000, b"\xff", b'{"event": 1}'])
def test_what_is_no_payload_is_refused_in_one_line(receive, content):
    reply = receive().send(content)
    assert reply.status_code == 400
    assert reply.json()["error"].startswith("the payload of a webhook cannot be read: ")


def test_other_addresses_and_methods(receive):
    receiver = receive()
    assert receiver.client.get("/webhook").status_code == 405
    assert receiver.client.post("/health").status_code == 405
    assert receiver.client.get("/").status_code == 404
    assert receiver.client.get("/webhook/../queue.sqlite3").status_code == 404


def test_a_body_that_does_not_come_is_given_up(receive):
    receiver = receive(body_seconds=0.3)
    lines = f"X-Webhook-Secret: {SECRET}\r\nContent-Length: 100\r\n\r\n"
    start = time.monotonic()
    assert b" 408 " in answer_of(receiver, (HEAD + lines).encode(), b"{")
    assert 0.2 < time.monotonic() - start < 5


def test_a_client_that_goes_away_in_mid_body_is_forgotten(receive):
    receiver = receive()
    lines = f"X-Webhook-Secret: {SECRET}\r\nContent-Length: {len(body())}\r\n\r\n"
    with socket.create_connection(receiver.address, timeout=30) as client:
        client.sendall((HEAD + lines).encode() + body()[:-1])
    while receiver.server.server_state.connections:
        time.sleep(0.01)
    assert receiver.health()["waiting"] == 0


@pytest.mark.parametrize("pieces", [[], [b"P"], [HEAD.encode()]])
def test_a_head_that_does_not_come_is_given_up(receive, pieces):
    start = time.monotonic()
    assert answer_of(receive(head_seconds=0.3), *pieces) == b""
    assert 0.2 < time.monotonic() - start < 5


def test_a_second_head_that_does_not_come_is_given_up(receive):
    """uvicorn's own limit on idle connections ends with the first byte."""
    receiver = receive(head_seconds=0.3)
    lines = f"X-Webhook-Secret: {SECRET}\r\nContent-Length: {len(body())}\r\n\r\n"
    with socket.create_connection(receiver.address, timeout=30) as client:
        client.sendall((HEAD + lines).encode() + body())
        found = b""
        while not found.endswith(b"}"):
            found += client.recv(65536)
        assert found.startswith(b"HTTP/1.1 202 ")
        start = time.monotonic()
        client.sendall(b"P")
        assert rest(client) == b""
        assert time.monotonic() - start < 4


def test_a_head_without_end_is_refused(receive):
    found = answer_of(receive(), HEAD.encode(), b"X-Long: " + b"a" * 200_000)
    assert found == b"" or found.startswith(b"HTTP/1.1 400 ")


def test_slow_clients_do_not_keep_others_waiting(receive):
    receiver = receive()
    lines = f"X-Webhook-Secret: {SECRET}\r\nContent-Length: 100\r\n\r\n"
    slow = [socket.create_connection(receiver.address, timeout=30) for _ in range(100)]
    try:
        for number, client in enumerate(slow):
            client.sendall(HEAD.encode() if number % 2 else (HEAD + lines).encode() + b"{")
        taken = []
        for number in range(20):
            start = time.monotonic()
            assert receiver.send(body(f"ada/style-{number}")).status_code == 202
            taken.append(time.monotonic() - start)
        assert max(taken) < 1
    finally:
        for client in slow:
            client.close()


IDLE = {
    "nothing": b"",
    "a part of a head": HEAD.encode() + b"X-Slow: ",
    "a body without the secret": (HEAD + "Content-Length: 60000\r\n\r\n{").encode(),
    "a request after its answer": b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\nGET",
    "many requests whose answers nobody reads": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 500,
}


@pytest.mark.parametrize("sent", IDLE.values(), ids=IDLE)
def test_more_idle_connections_than_there_may_be_keep_nobody_out(receive, sent):
    receiver = receive(connections=16)
    idle = []
    try:
        for _ in range(100):
            idle.append(socket.create_connection(receiver.address, timeout=30))
            with contextlib.suppress(ConnectionError):
                idle[-1].sendall(sent)
        for number in range(5):
            start = time.monotonic()
            # In the instant in which all are being answered a delivery is asked to come again.
            while (status := receiver.send(body(f"ada/style-{number}")).status_code) == 503:
                assert time.monotonic() - start < 2
            assert status == 202
            assert time.monotonic() - start < 2
            with contextlib.suppress(OSError):
                idle[-1].send(b"a")
    finally:
        for client in idle:
            client.close()


def test_the_address_with_most_idle_connections_gives_way(receive):
    receiver = receive(connections=16)
    try:
        other = socket.create_connection(
            receiver.address, timeout=30, source_address=("127.0.0.2", 0)
        )
    except OSError:
        pytest.skip("this system has one loopback address")
    idle = []
    with other:
        time.sleep(0.6)  # from now on it could be hung up on: it has waited longest
        for _ in range(4):
            idle += [socket.create_connection(receiver.address, timeout=30) for _ in range(20)]
            time.sleep(0.2)
        lines = f"X-Webhook-Secret: {SECRET}\r\nContent-Length: {len(body())}\r\n\r\n"
        other.sendall((HEAD + lines).encode() + body())
        assert other.recv(65536).startswith(b"HTTP/1.1 202 ")
    for client in idle:
        client.close()


def test_a_burst_of_deliveries_waits_for_its_turn(receive):
    receiver = receive(connections=200)
    replies = []

    def deliver(number):
        replies.append(receiver.send(body(f"ada/style-{number}")).status_code)

    threads = [threading.Thread(target=deliver, args=(number,)) for number in range(150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [202] * 150


def test_a_full_queue_says_when_to_come_back_and_outlives_a_restart(receive):
    first = receive(capacity=3)
    for number in range(3):
        assert first.send(body(f"ada/style-{number}", sha(1))).status_code == 202
    refused = first.send(body("ada/style-3", sha(1)))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "60")
    first.stop()

    second = receive(capacity=3)
    assert second.health()["waiting"] == 3
    assert second.send(body("ada/style-3", sha(1))).status_code == 503
    # Who waits already needs no more room.
    assert second.send(body("ada/style-2", sha(2))).status_code == 202
    assert second.send(body(ref="refs/pr/1")).status_code == 200
    taken = second.queue.take()
    assert taken.repo == "ada/style-0"
    assert second.send(body("ada/style-3", sha(1))).status_code == 503
    second.queue.finish(taken)
    assert second.send(body("ada/style-3", sha(1))).status_code == 202


def test_a_queue_that_cannot_be_written_is_said_and_nothing_is_accepted(receive, tmp_path):
    receiver = receive()
    other = sqlite3.connect(tmp_path / "queue" / "queue.sqlite3", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    found = []

    def deliver():
        start = time.monotonic()
        reply = receiver.send(body())
        found.append(
            (reply.status_code, reply.headers["retry-after"], time.monotonic() - start < 2)
        )

    threads = [threading.Thread(target=deliver) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(503, "60", True)] * 20
    other.execute("ROLLBACK")
    assert receiver.send(body()).status_code == 202
    other.close()


def test_deliveries_at_once_make_one_model_wait_once(receive):
    receiver = receive()
    replies = []

    def deliver(number):
        replies.append(receiver.send(body("ada/style", sha(number % 5 + 1))).status_code)

    threads = [threading.Thread(target=deliver, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [202] * 40
    assert receiver.health()["waiting"] == 1


def test_answers_name_neither_the_program_nor_the_secret(receive):
    receiver = receive()
    for reply in (receiver.send(body()), receiver.send(b""), receiver.send(body(), "x" * 32)):
        shown = json.dumps(dict(reply.headers)) + reply.text
        assert SECRET not in shown
        assert "uvicorn" not in shown
