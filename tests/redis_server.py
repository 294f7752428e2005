"""A real redis-server for tests, on a free loopback port, that can be killed, held up and started again."""

import os
import shutil
import signal
import socket
import subprocess
import time

import pytest
import redis

NEEDED = "RANKDISTILL_TEST_REDIS"  # set where its tests must not be skipped


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class RedisServer:
    """Keeps nothing on disk: killed, it comes back empty."""

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, free_port(), None
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self):
        binary = shutil.which("redis-server")
        if binary is None:
            end = pytest.fail if os.environ.get(NEEDED) else pytest.skip
            end("redis-server is not installed (Debian: apt install redis-server)")
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        log = (self.folder / "redis.log").open("ab")
        self.process = subprocess.Popen([binary, *options, "--dir", str(self.folder)], stdout=log, stderr=log)
        log.close()
        client, end = self.client(), time.monotonic() + 10
        while True:
            try:
                assert client.ping()
                return self
            except redis.RedisError:
                assert time.monotonic() < end, (self.folder / "redis.log").read_text()
                time.sleep(0.02)

    def client(self):
        return redis.Redis(port=self.port)

    def hold_up(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
