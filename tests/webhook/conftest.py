"""A receiver on this machine, and a hub whose every change it is told of."""

from __future__ import annotations

import threading
import time

import httpx2
import pytest

from gmi_registry.regeneration.store import DeliveryQueue
from gmi_registry.regeneration.webhook_receiver import Secret, create_app, listen, make_server
from tests.support.delivery import SECRET
from tests.support.loopback import fixtures

hf_hub = fixtures.hf_hub


class Receiver:
    """``client`` speaks to it; ``stop`` ends it, and its queue stays on the disk."""

    def __init__(self, folder, *, capacity=1000, body_seconds=10.0, **limits):
        self.queue = DeliveryQueue(folder, capacity=capacity)
        app = create_app(Secret(SECRET), self.queue, body_seconds=body_seconds)
        self.server = make_server(app, **limits)
        self.socket = listen("127.0.0.1", 0)
        self.address = self.socket.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self.client = httpx2.Client(base_url=self.url, timeout=30)
        self._thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)
        self._thread.start()
        while not self.server.started:
            time.sleep(0.005)

    def send(self, content, secret=SECRET):
        headers = {} if secret is None else {"X-Webhook-Secret": secret}
        return self.client.post("/webhook", content=content, headers=headers)

    def health(self):
        return self.client.get("/health").json()

    def stop(self):
        self.client.close()
        self.server.should_exit = True
        self._thread.join(30)
        self.queue.close()
        assert not self._thread.is_alive()


@pytest.fixture
def receive(tmp_path):
    """Start a receiver on a folder: ``receive()``, ``receive(capacity=3)``."""
    open_now = []

    def start(folder=tmp_path / "queue", **settings):
        receiver = Receiver(folder, **settings)
        open_now.append(receiver)
        return receiver

    yield start
    for receiver in open_now:
        if not receiver.server.should_exit:
            receiver.stop()
