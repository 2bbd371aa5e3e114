"""A route beside the Agent Server's own: `GET /slots` shows the scheduler that all runs share."""

from __future__ import annotations

from dataclasses import asdict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from llmsched_langgraph import default_scheduler


async def slots(_: Request) -> JSONResponse:
    return JSONResponse(asdict(default_scheduler().statistics()))


app = Starlette(routes=[Route("/slots", slots)])
