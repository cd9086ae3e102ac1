"""Record what a client sends to a server: ``python -m tests.integration.record URL NAME``.

Point the client at the address that it prints. It stands between a client and a server on this
machine until it is interrupted, then writes the client's file for ``recordings``. Prose is cut, and
what tells of the user or the machine replaced.
"""

import json
import re
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from attrs import define, field

from .recordings import FOLDER, SHARED

KEPT = ("anthropic-version", "anthropic-beta", "user-agent")
LONGEST, SHOWN = 160, 60
WORTH = 80
"""Characters of JSON from which a value that stands in several places is written once."""

PRIVATE = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "0" * 32),
    (re.compile(r"[0-9a-f]{40,}"), "0" * 32),
    (re.compile(r"(/root|/tmp|/home/\w+|/work|/opt)(/[\w.-]+)*"), "/home/user"),
    (re.compile(r"\b(root|[\w-]+@[\w-]+)(?=[:@$# ])"), "user"),
    (re.compile(r"(?i)(linux|debian)[ /]\d[\w.+-]*"), "Linux"),
    (re.compile(r" \([^)]*\).*"), ""),
)


def clean(value: Any, key: str = "") -> Any:
    """Return a value without prose, and without what is nobody's business."""
    if isinstance(value, list):
        return [clean(one, key) for one in value]
    if isinstance(value, dict):
        return {name: clean(one, name) for name, one in value.items()}
    if not isinstance(value, str):
        return value
    for pattern, instead in PRIVATE if key == "user-agent" else PRIVATE[:-1]:
        value = pattern.sub(instead, value)
    if len(value) <= LONGEST:
        return value
    return f"{value[:SHOWN]} [{len(value) - SHOWN} characters cut]"


@define
class Packer:
    """Writes once what stands in several places.

    Attributes:
        shared: What does.
    """

    shared: list[Any] = field(factory=list)
    _seen: Counter[str] = field(factory=Counter)
    _places: dict[str, int] = field(factory=dict)

    def count(self, value: Any) -> None:
        """Look where values stand."""
        text = json.dumps(value)
        if len(text) >= WORTH:
            self._seen[text] += 1
        if self._seen[text] <= 1:
            for one in _children(value):
                self.count(one)

    def pack(self, value: Any) -> Any:
        """Return a value, or the place of one that stands in several."""
        text = json.dumps(value)
        if self._seen[text] <= 1:
            return self.inside(value)
        if text not in self._places:
            self._places[text] = len(self.shared)
            self.shared.append(None)
            self.shared[self._places[text]] = self.inside(value)
        return {SHARED: self._places[text]}

    def inside(self, value: Any) -> Any:
        """Return a value with what is in it packed."""
        if isinstance(value, list):
            return [self.pack(one) for one in value]
        if isinstance(value, dict):
            return {key: self.pack(one) for key, one in value.items()}
        return value


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def packed(client: str, requests: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a client's file."""
    packer = Packer()
    for one in requests:
        packer.count(one["body"])
    made = [{**one, "body": packer.inside(one["body"])} for one in requests]
    return {"client": client, "shared": packer.shared, "requests": made}


def request_of(path: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """Return a request as it is kept."""
    kept = {name.lower(): text for name, text in headers.items() if name.lower() in KEPT}
    return clean({"path": path, "headers": kept, "body": json.loads(body)})  # type: ignore[no-any-return]


def write(name: str, requests: list[dict[str, Any]]) -> Path:
    """Write a client's file; return it."""
    client = next(iter(requests[0]["headers"].get("user-agent", name).split())) if requests else ""
    path = FOLDER / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(packed(client, requests), indent=1, ensure_ascii=False) + "\n")
    return path


def _handler(url: str, requests: list[dict[str, Any]]) -> type[BaseHTTPRequestHandler]:
    class Between(BaseHTTPRequestHandler):
        """Passes everything on."""

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            own = ("host", "content-length", "connection", "accept-encoding", "transfer-encoding")
            headers = {k: v for k, v in self.headers.items() if k.lower() not in own}
            if self.command == "POST":
                requests.append(request_of(self.path, headers, body))
            with httpx.stream(
                self.command, url + self.path, content=body, headers=headers, timeout=None
            ) as answer:
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers.get("content-type", "text/plain"))
                self.end_headers()
                for piece in answer.iter_bytes():
                    self.wfile.write(piece)
                    self.wfile.flush()

        do_GET = do_HEAD = do_POST = do_DELETE = pass_on  # noqa: N815 - http.server's names

    return Between


def main() -> None:
    """Record until it is interrupted."""
    url, name = sys.argv[1:3]
    requests: list[dict[str, Any]] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(url, requests)) as between:
        sys.stdout.write(f"http://127.0.0.1:{between.server_address[1]}\n")
        sys.stdout.flush()
        try:
            between.serve_forever()
        except KeyboardInterrupt:
            sys.stdout.write(f"{write(name, requests)}\n")


if __name__ == "__main__":
    main()
