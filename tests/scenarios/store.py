"""An object store at the end of a slow line: a process of its own that answers late, or slowly.

A client sends a number as one line and gets that many bytes of the object back. The waiting happens here,
so whoever reads from the socket is truly blocked.
"""

from __future__ import annotations

import argparse
import socketserver
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

CHUNK_BYTES = 16384


class Answer(socketserver.StreamRequestHandler):
    """One connection: any number of requests."""

    latency_s = 0.0
    bytes_per_s = 1e9

    def handle(self) -> None:
        for line in self.rfile:
            time.sleep(self.latency_s)
            left = int(line)
            while left > 0:
                size = min(left, CHUNK_BYTES)
                time.sleep(size / self.bytes_per_s)
                self.wfile.write(bytes(size))
                left -= size


@contextmanager
def slow_store(latency_ms: float = 0.0, megabytes_per_s: float = 1000.0) -> Iterator[int]:
    """Start the store; the value is its port on the loopback address."""
    command = [sys.executable, __file__, str(latency_ms), str(megabytes_per_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("latency_ms", type=float)
    parser.add_argument("megabytes_per_s", type=float)
    args = parser.parse_args()
    Answer.latency_s = args.latency_ms / 1e3
    Answer.bytes_per_s = args.megabytes_per_s * 1e6
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
