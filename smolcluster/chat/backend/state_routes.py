"""What is served and how it does: /config, /health, /stages, /reconnect, /metrics."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Header, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from smolcluster.chat.backend.answers import (
    ConfigAnswer,
    HealthAnswer,
    LimitsAnswer,
    StageAnswer,
    StagesAnswer,
    StrategyAnswer,
)
from smolcluster.chat.backend.asked import MOST_CHOICES, MOST_MESSAGES, MOST_STOPS
from smolcluster.chat.backend.gauges import step_ms
from smolcluster.chat.backend.openapi import NOT_CHANGED, NOT_READY
from smolcluster.chat.backend.refusals import RETRY_S, ApiError
from smolcluster.chat.backend.service import Service
from smolcluster.infer.head import Health
from smolcluster.infer.request import sampling_of

MAY_SEE_ALL = "smolcluster.may_see_all"
_TAG_DIGITS = 32


def state_routes(service: Service) -> APIRouter:
    """The endpoints."""
    router = APIRouter(tags=["state"])

    @router.get("/config")
    async def config() -> ConfigAnswer:
        """The model that is served, how it decodes, and what a request may be."""
        about = await service.about()
        ways = {name: sampling_of(name, said) for name, said in about.strategies.items()}
        return ConfigAnswer(
            model=about.name,
            source=about.source,
            licence=about.licence,
            layers=about.layers,
            params=about.params,
            vocabulary=about.vocabulary,
            precision=about.precision,
            chat=about.chat_template is not None,
            active_strategy=about.active_strategy,
            strategies={
                name: StrategyAnswer(temperature=how.temperature, top_k=how.top_k, top_p=how.top_p)
                for name, how in ways.items()
            },
            limits=LimitsAnswer(
                context=about.context,
                max_tokens=about.context,
                default_max_tokens=about.max_tokens,
                body_bytes=service.settings.body_bytes,
                messages=MOST_MESSAGES,
                choices=MOST_CHOICES,
                stop_strings=MOST_STOPS,
                resume_s=service.settings.resume_s,
                kept_s=service.settings.kept_s,
            ),
        )

    @router.get("/health", response_model=HealthAnswer, responses=NOT_READY)
    async def health(request: Request) -> Response:
        """Whether it serves now (200), and if not why not (503)."""
        now = await service.health()
        answer = told(now) if request.scope[MAY_SEE_ALL] else HealthAnswer(state=now.state)
        return JSONResponse(answer.model_dump(exclude_none=True), 200 if now.state == "ready" else 503)

    @router.get("/stages", response_model=StagesAnswer, responses=NOT_CHANGED)
    async def stages(if_none_match: Annotated[str, Header(description="The ETag of the last answer")] = "") -> Response:
        """The stages, their speeds and what happened to them, also while they do not serve. Cheap to ask every second:
        304 where nothing has changed.
        """
        now = await service.health()
        body = service.watch.answer(now, service.accounts.tokens_per_s()).model_dump_json().encode()
        tag = f'"{hashlib.sha256(body).hexdigest()[:_TAG_DIGITS]}"'
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        if tag in if_none_match:
            return Response(status_code=304, headers=headers)
        return Response(body, 200, headers, "application/json")

    @router.post("/reconnect", response_model=HealthAnswer, response_model_exclude_none=True)
    async def reconnect() -> HealthAnswer:
        """Connect all stages anew, and those that were lost if they came again."""
        await service.reconnect()
        now = await service.health()
        if now.state != "ready":
            raise ApiError(503, now.reason, code="not_ready", headers={"Retry-After": str(RETRY_S)})
        return told(now)

    @router.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.accounts.metrics(await service.health()), media_type=CONTENT_TYPE_LATEST)

    return router


def told(now: Health) -> HealthAnswer:
    """All of it."""
    return HealthAnswer(
        state=now.state,
        reason=now.reason,
        epoch=now.epoch,
        active=now.active,
        waiting=now.waiting,
        tokens=now.tokens,
        stages=[
            StageAnswer(
                rank=stage.rank,
                node=stage.node,
                layers=f"{stage.start}:{stage.stop}",
                alive=stage.alive,
                sessions=stage.sessions,
                cache_bytes=stage.cache_bytes,
                ms_per_step=step_ms(stage),
                rss_mb=stage.rss_mb,
                tablet=stage.tablet,
            )
            for stage in now.stages
        ],
    )
