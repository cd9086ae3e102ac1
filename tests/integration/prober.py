"""A supervisor's probe in a process of its own: asks for ``/livez`` until its stdin ends.

``python prober.py PORT`` prints two JSON lists: seconds of each answer, and the statuses seen.
"""

import http.client
import json
import select
import sys
import time


def main(port: int) -> None:
    """Probe until stdin ends, then print what came."""
    wire = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    seconds, statuses = list[float](), set[int]()
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        begun = time.perf_counter()
        wire.request("GET", "/livez")
        answer = wire.getresponse()
        answer.read()
        seconds.append(time.perf_counter() - begun)
        statuses.add(answer.status)
    sys.stdout.write(json.dumps([seconds, sorted(statuses)]))


if __name__ == "__main__":
    main(int(sys.argv[1]))
