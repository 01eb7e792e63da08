"""The service as its users start it: processes that fall, and are taken along."""

from __future__ import annotations

import builtins
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from gmi_registry.errors import InputError, MissingExtraError, install_command
from gmi_registry.regeneration.store import DeliveryQueue
from gmi_registry.regeneration.webhook_receiver import Secret, create_app, listen, make_server
from gmi_registry.regeneration.webhook_service import only_worker
from tests.support import load_run
from tests.support.delivery import SECRET, body
from tests.support.loopback.fixtures import client_environment
from tests.support.waiting import wait_until

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])

_START = "import sys; from gmi_registry.cli.main import main; sys.exit(main())"
_PROC = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")


class Service:
    """``gmi webhook serve`` as a process; its log goes to a file."""

    def __init__(self, folder, hub, *options):
        self.folder, self.log = folder, folder / "log.txt"
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-c", _START, "webhook", "serve", "--port", "0"]
        command += [
            "--queue",
            str(folder / "queue"),
            "--cache-dir",
            str(folder / "cache"),
            *options,
        ]
        environment = os.environ | client_environment(hub.endpoint, folder / "home")
        environment |= {"GMI_WEBHOOK_SECRET": SECRET}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stderr=log,
                stdout=log,
                env=environment,
                # A shell starts background jobs with Ctrl-C ignored, and children inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        wait_until(lambda: "listening at " in self.text or self.process.poll() is not None)
        self.url = self.text.split("listening at ")[1].split(";")[0]

    @property
    def text(self):
        return self.log.read_text()

    def send(self, content):
        return httpx2.post(self.url, content=content, headers={"X-Webhook-Secret": SECRET})

    def health(self):
        return httpx2.get(self.url.replace("/webhook", "/health")).json()

    def workers(self):
        """Process ids of the children."""
        place = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        threads = place.parents[1].iterdir() if place.parents[1].exists() else []
        found = [(thread / "children").read_text().split() for thread in threads]
        return [int(pid) for pids in found for pid in pids]

    def stop(self, number=signal.SIGINT):
        self.process.send_signal(number)
        return self.process.wait(60)


def is_there(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def service(tmp_path, hf_hub):
    open_now = []

    def start(*options):
        open_now.append(Service(tmp_path / "service", hf_hub, *options))
        return open_now[-1]

    yield start
    for one in open_now:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait(60)


@_PROC
def test_a_delivery_is_worked_on_by_a_process_that_does_not_know_the_secret(service, hf_hub):
    running = service()
    assert running.send(body("ada/none")).status_code == 202
    wait_until(lambda: "ada/none: passing" in running.text)
    assert any("ada/none" in request.path for request in hf_hub.requests)
    (worker,) = running.workers()
    assert b"GMI_WEBHOOK_SECRET" not in Path(f"/proc/{worker}/environ").read_bytes()
    # Without a token it may be there or not: it waits for somebody to log in.
    health = {"waiting": 1, "working": 0, "set_aside": 0, "capacity": 1000, "worker": True}
    assert running.health() == health
    assert running.stop() == 130
    wait_until(lambda: not is_there(worker))
    assert "stopped: waiting models are on the disk" in running.text
    assert SECRET not in running.text
    queue = DeliveryQueue(running.folder / "queue")
    assert queue.counts().waiting == 1
    queue.close()


@_PROC
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_is_left_behind(service, number):
    running = service("--no-create-pr", "--device", "cpu")
    wait_until(lambda: running.workers())
    (worker,) = running.workers()
    assert running.stop(number) == -number
    wait_until(lambda: not is_there(worker), seconds=30)
    assert not is_there(worker)


@_PROC
def test_a_worker_that_falls_is_begun_again(service):
    running = service()
    wait_until(lambda: running.health()["worker"])
    (first,) = running.workers()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: running.workers() and running.workers() != [first])
    assert running.send(body("ada/none")).status_code == 202
    wait_until(lambda: "ada/none: passing" in running.text)
    assert running.health()["worker"] is True


def test_a_second_worker_leaves_a_queue_alone(tmp_path):
    command = [sys.executable, "-m", "gmi_registry.regeneration.webhook_service", "worker"]
    with only_worker(tmp_path):
        done = subprocess.run(
            [*command, str(tmp_path), "--work", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=120,
        )
    said = done.stderr
    assert done.returncode == 1
    assert said.startswith("error: another program works on the queue")
    assert "hint: " in said


def test_a_port_that_is_taken_is_said():
    with listen("127.0.0.1", 0) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {number}") as refused:
            listen("127.0.0.1", number)
    assert "--port" in refused.value.hint


def test_without_the_extra_the_pip_line_is_said(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] in ("starlette", "uvicorn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    queue = DeliveryQueue(tmp_path)
    app = create_app(Secret(SECRET), queue)
    monkeypatch.setattr(builtins, "__import__", without)
    for make in (lambda: create_app(Secret(SECRET), queue), lambda: make_server(app)):
        with pytest.raises(MissingExtraError) as refused:
            make()
        assert refused.value.hint == install_command("web")
    queue.close()


@_PROC
def test_a_thousand_deliveries_a_minute_for_five_seconds():
    """``load_run.py`` does it for a minute, and shows how long everything took."""
    load = load_run.run(5, 1000)
    assert load.answers.total() == 83
    assert load.quantile(0.99) < 1
    assert {pair for pair in load.answers if pair[0] != "10 MB"} == {
        ("change", 202), ("other branch", 200), ("wrong secret", 401),
    }  # fmt: skip
    assert {status for kind, status in load.answers if kind == "10 MB"} <= {0, 413}
    assert load.peak - load.before < 50e6
    assert load.looked > 0
