"""The internal port's application."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def make_app() -> Starlette:
    """Make the ASGI application of the internal port."""
    return Starlette(routes=[Route("/healthz", healthz)])


async def healthz(request: Request) -> JSONResponse:
    """Answer 200: the process's loop runs."""
    del request
    return JSONResponse({"status": "ok"})
