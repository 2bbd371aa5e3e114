"""A server on loopback whose answers come piece by piece, and a chat model that streams them over httpx."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

PIECES = ["a", "b", "c", "d", "e"]
PATIENCE_S = 30.0


class PiecewiseServer:
    """The server, as tests set it and look at it.

    Attributes:
        url: where to send a POST.
        pieces: the lines of each answer.
        pause_s: seconds before each piece.
        breaks_after: number of pieces after which the connection breaks; None for never.
        gate: while it is cleared, pieces after the first one are held up.
        peak: the most requests that were in flight at once.
        total: how many there were.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.gate = threading.Event()
        self._lock = threading.Lock()
        self.now = 0
        self.reset()

    def reset(self) -> None:
        """Answer as at first, and count anew."""
        self.pieces, self.pause_s, self.breaks_after = PIECES, 0.005, None
        self.peak = self.total = 0
        self.gate.set()

    def begin(self) -> None:
        with self._lock:
            self.now += 1
            self.total += 1
            self.peak = max(self.peak, self.now)

    def end(self) -> None:
        with self._lock:
            self.now -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    own: PiecewiseServer

    def do_POST(self) -> None:
        own = self.own
        self.rfile.read(int(self.headers.get("content-length", 0)))
        own.begin()
        ended = False
        try:
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for number, piece in enumerate(own.pieces):
                if number:
                    own.gate.wait(PATIENCE_S)
                if number == own.breaks_after:
                    self.close_connection = True
                    return
                threading.Event().wait(own.pause_s)
                data = f"{json.dumps(piece)}\n".encode()
                if number == len(own.pieces) - 1:
                    ended = True
                    own.end()  # before the last bytes: who has them may ask again at once
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True  # the client closed the connection
        finally:
            if not ended:
                own.end()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def piecewise_server() -> Iterator[PiecewiseServer]:
    """The server in threads of this process, for as long as the context lasts."""

    class Handler(_Handler):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        Handler.own = PiecewiseServer(f"http://127.0.0.1:{http.server_port}/v1/messages")
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        try:
            yield Handler.own
        finally:
            Handler.own.gate.set()
            http.shutdown()
            thread.join()


class PiecewiseModel(BaseChatModel):
    """A chat model that sends a POST by `library`, httpx or httpx2, and streams the answer's lines."""

    url: str
    library: Any
    client: Any = None
    aclients: Any = None

    @property
    def _llm_type(self) -> str:
        return "piecewise"

    def model_post_init(self, _: Any) -> None:
        self.client = self.library.Client(timeout=PATIENCE_S, trust_env=False)

    def aclient(self) -> Any:
        """A client for the running loop."""
        loop = asyncio.get_running_loop()
        if self.aclients is None or self.aclients[0] is not loop:
            self.aclients = loop, self.library.AsyncClient(timeout=PATIENCE_S, trust_env=False)
        return self.aclients[1]

    def _stream(self, *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        with self.client.stream("POST", self.url) as response:
            for line in response.iter_lines():
                yield ChatGenerationChunk(message=AIMessageChunk(json.loads(line)))

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        async with self.aclient().stream("POST", self.url) as response:
            async for line in response.aiter_lines():
                yield ChatGenerationChunk(message=AIMessageChunk(json.loads(line)))

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        return _result(self.client.post(self.url).text)

    async def _agenerate(self, *_: Any, **__: Any) -> ChatResult:
        return _result((await self.aclient().post(self.url)).text)


def _result(text: str) -> ChatResult:
    said = "".join(json.loads(line) for line in text.splitlines())
    return ChatResult(generations=[ChatGeneration(message=AIMessage(said))])
