"""A web server of several processes, whose model calls share the slots of one backend.

uvicorn web:app --workers 4
"""

from __future__ import annotations

import os
from dataclasses import asdict

from answers import graph
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from llmsched_langgraph import default_scheduler


async def answer(request: Request) -> JSONResponse:
    """Answer the question of the query: `GET /answer?question=...`."""
    state = await graph.ainvoke({"question": request.query_params["question"]})
    return JSONResponse({"answer": state["answer"], "process": os.getpid()})


async def slots(_: Request) -> JSONResponse:
    """Show what this process knows of the slots: `slots` is the limit of all, the rest are its own calls."""
    return JSONResponse(asdict(default_scheduler().statistics()))


app = Starlette(routes=[Route("/answer", answer), Route("/slots", slots)])
