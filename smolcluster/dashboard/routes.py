"""The endpoints of the dashboard: /dashboard/run, state, stream, series, events, logs, stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from smolcluster.chat.backend.openapi import Responses
from smolcluster.chat.backend.refusals import ApiError, ErrorAnswer
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.chat.backend.streaming import EventStream
from smolcluster.dashboard.answers import (
    EventsAnswer,
    Grouping,
    Level,
    LogsAnswer,
    RunAnswer,
    SeriesAnswer,
    SeriesName,
    StateAnswer,
    StopAnswer,
    StopAsked,
)
from smolcluster.dashboard.reading import Reading

# How often a stream looks whether something has changed.
LOOK_S = 1.0
MOST_POINTS, MOST_LINES = 5000, 2000
_NODE = Query(max_length=200, description="Only this machine's")
_RANK = Query(ge=0, le=1 << 20, description="Only this rank's")

SAME: Responses = {204: {"description": "Nothing has changed since"}}
OVER: Responses = {409: {"model": ErrorAnswer, "description": "It is another run, or over, or not to be stopped here"}}
STATES: Responses = {
    200: {
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "object",
                    "required": ["id", "data"],
                    "properties": {
                        "id": {"type": "string", "description": "The answer's cursor"},
                        "data": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": {"$ref": "#/components/schemas/StateAnswer"},
                        },
                    },
                }
            }
        }
    }
}


def dashboard_routes(reading: Reading, settings: ApiSettings, leaving: Callable[[], bool]) -> APIRouter:
    """The endpoints of one run. `leaving`: the server is being stopped. Those that read files do so in threads."""
    router = APIRouter(prefix="/dashboard", tags=["dashboard"])

    @router.get("/run")
    def run() -> RunAnswer:
        """What does not change: the plan, the machines, the wires."""
        return reading.run()

    @router.get("/state", response_model=StateAnswer, responses=SAME)
    def state(since: Annotated[str, Query(max_length=200, description="The cursor of the last answer")] = "") -> Any:
        """How it is now; 204 where nothing has changed since that cursor."""
        now = reading.state()
        return Response(status_code=204) if now.cursor == since else now

    @router.get("/stream", response_class=Response, responses=STATES)
    async def stream() -> Response:
        """`state`, whenever it changes."""
        return EventStream(_states(reading, settings.ping_s, leaving), settings.send_s, AsyncExitStack())

    @router.get("/series")
    def series(
        name: SeriesName,
        by: Annotated[Grouping | None, Query(description="A curve for each of them; null: what suits it")] = None,
        node: Annotated[str | None, _NODE] = None,
        rank: Annotated[int | None, _RANK] = None,
        since_step: Annotated[int, Query(ge=0, le=1 << 53, description="`last_step` of the last answer")] = 0,
        until_step: Annotated[int | None, Query(ge=0, le=1 << 53, description="null: the last there is")] = None,
        points: Annotated[int, Query(ge=2, le=MOST_POINTS, description="Of each curve at most about so many")] = 500,
    ) -> SeriesAnswer:
        """A figure over the steps after `since_step`, up to `until_step`: fewer steps, and as many points for them."""
        return reading.series(name, by, node, rank, (since_step, until_step), points)

    @router.get("/events", response_model=EventsAnswer, responses=SAME)
    def events(since: Annotated[str, Query(max_length=200, description="The cursor of the last answer")] = "") -> Any:
        """What happened; 204 where nothing was added since that cursor."""
        found = reading.events()
        return Response(status_code=204) if found.cursor == since else found

    @router.get("/logs")
    def logs(
        before: Annotated[str, Query(max_length=20_000, description="The lines before this cursor")] = "",
        after: Annotated[str, Query(max_length=20_000, description="The lines after this cursor")] = "",
        node: Annotated[str | None, _NODE] = None,
        rank: Annotated[int | None, _RANK] = None,
        level: Annotated[Level | None, Query(description="This level and above; lines without one go along")] = None,
        contains: Annotated[str, Query(max_length=200, description="In any case of letters")] = "",
        limit: Annotated[int, Query(ge=1, le=MOST_LINES)] = 200,
    ) -> LogsAnswer:
        """The logs of all machines, merged by time. Without a cursor: the newest lines."""
        if before and after:
            raise ApiError(400, "give `before` or `after`, not both", param="before")
        return reading.logs(before, after, node, rank, level, contains, limit)

    @router.post("/stop", status_code=202, responses=OVER)
    def stop(asked: StopAsked) -> StopAnswer:
        """Stop the run on all its machines, as stop.yml does: ranks finish their step and save the model."""
        return reading.stop(asked.confirm)

    return router


async def _states(reading: Reading, ping_s: float, leaving: Callable[[], bool]) -> AsyncGenerator[str, None]:
    """Frames of server-sent events, until the server leaves."""
    before, silent_s = "", 0.0
    while not leaving():
        now = await asyncio.to_thread(reading.state)
        if now.cursor != before:
            before, silent_s = now.cursor, 0.0
            yield f"id: {now.cursor}\nevent: state\ndata: {now.model_dump_json(by_alias=True)}\n\n"
        elif silent_s >= ping_s:
            silent_s = 0.0
            yield ": ping\n\n"
        await asyncio.sleep(LOOK_S)
        silent_s += LOOK_S
