"""Rewards behind a URL: the protocols of OpenRLHF and vLLM, and servers that are broken."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from holdtrue.doctor.reward_servers import from_url
from holdtrue.doctor.rewards import Case, RewardFault, ask
from holdtrue.errors import SettingsError

CASES = [Case("2 + 2?", "4", "a:1", {"label": "4"}), Case("3 + 3?", "six", "a:2", {"label": "6"})]

Reply = Callable[[str, Any], tuple[int, Any]]


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], str]]:
    """Starts a server that answers with what ``reply(path, body)`` gives, and returns its address."""
    servers = []

    def start(reply: Reply) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                status, said = reply(self.path, body)
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_openrlhfs_protocol(serve: Callable[[Reply], str]) -> None:
    def reply(path: str, body: Any) -> tuple[int, Any]:
        assert path == "/get_reward" and body["prompts"] == ["2 + 2?", "3 + 3?"]
        return 200, {"rewards": [len(query) for query in body["query"]], "labels": body["labels"]}

    reward = from_url(serve(reply) + "/get_reward", 5.0)
    assert ask(reward, CASES, 5.0).tolist() == [7.0, 9.0]


@pytest.mark.parametrize("path", ["/classify", "/v1/classify", "/pooling"])
def test_vllms_protocol_with_plain_text_and_with_messages(serve: Callable[[Reply], str], path: str) -> None:
    def reply(at: str, body: Any) -> tuple[int, Any]:
        if at == "/v1/models":
            return 200, {"data": [{"id": "my-rm"}]}
        assert at == path and body["model"] == "my-rm"
        texts = body.get("input") or [body["messages"][-1]["content"]]
        rows = [{"index": i, "probs" if "classify" in at else "data": [len(t)]} for i, t in enumerate(texts)]
        return 200, {"data": rows[::-1]}

    reward = from_url(serve(reply) + path, 5.0)
    assert ask(reward, CASES, 5.0).tolist() == [7.0, 9.0]
    assert ask(reward, [case.as_chat() for case in CASES], 5.0).tolist() == [1.0, 3.0]


def test_of_two_classes_the_second_is_the_reward_and_more_are_refused(serve: Callable[[Reply], str]) -> None:
    probs = [0.25, 0.75]

    def reply(path: str, body: Any) -> tuple[int, Any]:
        rows = [{"index": i, "probs": probs} for i in range(2)]
        return 200, {"data": rows if body else [{"id": "m"}]}

    reward = from_url(serve(reply) + "/classify", 5.0)
    assert ask(reward, CASES, 5.0).tolist() == [0.75, 0.75]
    probs.append(0.0)
    with pytest.raises(RewardFault, match="3 numbers for an answer"):
        ask(reward, CASES, 5.0)


@pytest.mark.parametrize(
    ("status", "said", "fault"),
    [
        (500, {"error": "CUDA out of memory"}, "answers 500 Internal Server Error: .*out of memory"),
        (404, b"", "answers 404 Not Found$"),
        (200, b"<html>hello</html>", "says no JSON but '<html>hello</html>'"),
        (200, b"\xff\xfe", "says no JSON"),
        (200, {"rewards": [1.0]}, "gives 1 rewards for 2 answers"),
        (200, {"score": [1.0, 2.0]}, "gives the keys score, not"),
        (200, [1.0, 2.0], "not .*rewards"),
        (200, {"rewards": ["a", "b"]}, "not a number"),
        (200, {"rewards": 3}, "not a list of numbers"),
    ],
)
def test_a_broken_server_is_said_in_a_line(
    serve: Callable[[Reply], str], status: int, said: Any, fault: str
) -> None:
    reward = from_url(serve(lambda path, body: (status, said)), 5.0)
    with pytest.raises(RewardFault, match=fault) as caught:
        ask(reward, CASES, 5.0)
    assert "\n" not in str(caught.value)


def test_a_slow_server_is_not_waited_for(serve: Callable[[Reply], str]) -> None:
    def reply(path: str, body: Any) -> tuple[int, Any]:
        time.sleep(1.0)
        return 200, b""

    with pytest.raises(RewardFault, match=r"no answer within 0\.1 s") as caught:
        ask(from_url(serve(reply), 0.1), CASES, 5.0)
    assert caught.value.hung


def test_a_server_that_is_not_there_and_a_url_that_is_none() -> None:
    with pytest.raises(RewardFault, match="cannot be reached"):
        ask(from_url("http://127.0.0.1:9/x", 1.0), CASES, 5.0)
    for url in ("ftp://host/x", "http:///x"):
        with pytest.raises(SettingsError, match="not a URL"):
            from_url(url, 1.0)
