"""The internal port of several workers: their probes and metrics together, and calls passed on to one of them."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import anyio
import h11
import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from presence_server.api.app import (
    asks_leniently,
    check_framing,
    pages_app,
    read_body,
)
from presence_server.api.callers import check_same_origin
from presence_server.api.problems import ProblemError, unavailable
from presence_server.shutdown import CHECK_DRAINING
from presence_server.workers.exposition import merge
from presence_server.workers.process import WorkerProcess
from presence_server.workers.unix_http import NotSentError, RawHeaders, WorkerAnswer, ask

PROBE_S: Final = 2.0
"""The longest that a worker may take to answer a probe; a slower one is not ready, and its metrics are left out."""
CALL_S: Final = 30.0
OWN_PAGES: Final = ("/healthz", "/readyz", "/metrics")
HOP_BY_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect")
)
"""Headers of one connection (RFC 9110, 7.6.1), which are not passed on."""
FRAMING: Final = frozenset((b"content-length", b"date", b"server"))
"""Headers that each sender of a message makes itself."""
HARMLESS: Final = ("GET", "HEAD", "OPTIONS")
"""Methods of requests that change nothing, and that another worker may be asked (RFC 9110, 9.2.1)."""
AS_LOOPBACK: Final = ((b"host", b"localhost"),)


class SupervisorPort(Protocol):
    """The questions of the port to the supervisor."""

    @property
    def workers(self) -> Sequence[WorkerProcess]:
        """Return all workers."""

    def checks(self) -> dict[str, str]:
        """Return what is wrong with everything but the workers, by name; "": nothing."""

    def page(self) -> str:
        """Return the supervisor's own metrics."""


class InternalPort:
    """The ASGI application. `keyed`: calls need a key, which the workers check."""

    def __init__(self, supervisor: SupervisorPort, *, keyed: bool) -> None:
        self._supervisor = supervisor
        self._keyed = keyed
        self._silent: set[int] = set()
        """The numbers of workers that have not answered the last time: others are asked before them."""
        self._own: ASGIApp = pages_app(
            {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        app: ASGIApp
        try:
            check_framing(Headers(scope=scope))
            if scope["path"] == "/metrics" and not self._keyed:
                check_same_origin(scope["method"], Headers(scope=scope))
            app = self._own if scope["path"] in OWN_PAGES else await self._pass_on(Request(scope, receive))
        except ClientDisconnect:
            return
        except ProblemError as refusal:
            app = refusal.response()
        await app(scope, receive, send)

    # --- the supervisor's own pages ---

    async def _healthz(self, request: Request) -> Response:
        """Answer 200: the loop of the supervisor runs, so that workers that end are started again."""
        del request
        return JSONResponse({"status": "ok"})

    async def _readyz(self, request: Request) -> Response:
        """Answer 200 where every worker answers 200, else 503 with the workers that do not, and why."""
        lenient = asks_leniently(request)
        answers = await self._ask_each(b"/readyz" + (b"?isolated=ok" if lenient else b""))
        found = self._supervisor.checks()
        serves = not any(text for name, text in found.items() if not lenient or name == CHECK_DRAINING)
        for worker in self._supervisor.workers:
            answer = None if worker.problem else answers.get(worker.number)
            serves = serves and answer is not None and answer.status == 200
            found[f"worker {worker.number}"] = worker.problem or _wrong(answer)
        status = ("isolated" if any(found.values()) else "ready") if serves else "unready"
        body = {"status": status, "checks": {name: text or "ok" for name, text in found.items()}}
        return JSONResponse(body, 200 if serves else 503, {"Cache-Control": "no-store"})

    async def _metrics(self, request: Request) -> Response:
        """Answer with the numbers of every worker that answers, and of the supervisor."""
        del request
        answers = await self._ask_each(b"/metrics")
        good = {number: answer for number, answer in answers.items() if answer.status == 200}
        pages = {str(number): answer.body.decode() for number, answer in good.items()}
        page = merge({"supervisor": self._supervisor.page()} | pages)
        return Response(page, 200, {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _ask_each(self, target: bytes) -> Mapping[int, WorkerAnswer]:
        """Return the answer of each worker that has answered in time, by its number."""
        answers: dict[int, WorkerAnswer] = {}

        async def ask_one(worker: WorkerProcess) -> None:
            with anyio.move_on_after(PROBE_S) as asking:
                try:
                    answers[worker.number] = await ask(worker.api_path, "GET", target, AS_LOOPBACK)
                except (NotSentError, OSError, h11.ProtocolError):
                    return
                self._silent.discard(worker.number)
            if asking.cancelled_caught:
                self._silent.add(worker.number)

        async with anyio.create_task_group() as tasks:
            for worker in self._supervisor.workers:
                tasks.start_soon(ask_one, worker)
        return answers

    # --- calls ---

    async def _pass_on(self, request: Request) -> Response:
        """Return a worker's answer. Raises `ProblemError` where there is none.

        What comes on one connection goes to one worker, as long as that answers: so a caller sees what it has done.
        """
        body = await read_body(request)
        there = [worker for worker in self._supervisor.workers if not worker.problem]
        first = hash(request.client) % len(there) if there else 0
        in_turn = (*there[first:], *there[:first])
        for worker in sorted(in_turn, key=lambda worker: worker.number in self._silent):
            try:
                with anyio.fail_after(CALL_S):
                    return _response(await ask(worker.api_path, *_of(request), body))
            except NotSentError:  # it has ended just now
                continue
            except TimeoutError:
                self._silent.add(worker.number)
                raise ProblemError(504, f"worker {worker.number} does not answer") from None
            except h11.LocalProtocolError as exc:  # nothing was sent
                raise ProblemError(400, f"the request cannot be passed on to a worker: {exc}") from None
            except (OSError, h11.RemoteProtocolError):
                if request.method in HARMLESS:
                    continue
                raise ProblemError(
                    502, f"worker {worker.number} has ended, and may have done what was asked"
                ) from None
        raise unavailable("no worker is there; see /readyz")


def _of(request: Request) -> tuple[str, bytes, RawHeaders]:
    """Return the method, the target and the headers to ask a worker with."""
    query: bytes = request.scope["query_string"]
    path: bytes = request.scope["raw_path"]
    headers = [
        (name, value)
        for name, value in request.headers.raw
        if name not in HOP_BY_HOP and name != b"content-length"
    ]
    if "host" not in request.headers:  # HTTP/1.0 has none, and the request to the worker is of 1.1
        headers.append((b"host", b""))
    return request.method, path + (b"?" + query if query else b""), headers


def _response(answer: WorkerAnswer) -> Response:
    response = Response(answer.body, answer.status)
    kept = [(name, value) for name, value in answer.headers if name not in HOP_BY_HOP | FRAMING]
    lengths = [(name, value) for name, value in answer.headers if name == b"content-length"]
    response.raw_headers = kept + lengths
    return response


def _wrong(answer: WorkerAnswer | None) -> str:
    """Say what is wrong with a worker, by what it answers to its probe; "": nothing."""
    if answer is None:
        return "it does not answer"
    try:
        checks = msgspec.json.decode(answer.body, type=WorkerProbe).checks
    except msgspec.MsgspecError:
        return f"it answers {answer.status}"
    return "; ".join(f"{name}: {text}" for name, text in checks.items() if text != "ok")


class WorkerProbe(msgspec.Struct):
    """The answer of a worker's `/readyz`."""

    checks: dict[str, str]
