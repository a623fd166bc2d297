"""Which models are served, with their defaults and limits."""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web

from instgenie.orders import ModelCard
from instgenie_server.api_error import not_found
from instgenie_server.app_keys import SETTINGS
from instgenie_server.routes.keys import engine_of
from instgenie_server.routes.reply import json_reply
from instgenie_server.schemas import MeasuredFidelity, ModelList, ModelReply
from instgenie_server.settings import LimitSettings

routes = web.RouteTableDef()


@routes.get("/v1/models")
async def list_models(request: web.Request) -> web.Response:
    """All of them: one."""
    return json_reply(ModelList(data=[_reply(request)]))


@routes.get("/v1/models/{id}")
async def get_model(request: web.Request) -> web.Response:
    """One model."""
    name = request.match_info["id"]
    if name != engine_of(request).replica.model.name:
        raise not_found(f"model {name[:100]!r} is not served here, but {engine_of(request).replica.model.name!r}")
    return json_reply(_reply(request))


def _reply(request: web.Request) -> ModelReply:
    return model_reply(engine_of(request).replica.model, request.app[SETTINGS].limits)


def model_reply(card: ModelCard, limits: LimitSettings) -> ModelReply:
    """The model as clients see it."""
    from instgenie import fidelity, flow, picture, step_cache
    from instgenie import parameter_checks as checks

    return ModelReply(
        id=card.name,
        created=0,
        revision=card.revision,
        dtype=card.dtype,
        device=card.device,
        defaults={
            "steps": card.steps,
            "guidance": card.guidance,
            "canvas_pixels": card.canvas_pixels,
            "halo": fidelity.DEFAULT_HALO,
            "refreshes": fidelity.default_refreshes(card.steps),
        },
        fidelity=[MeasuredFidelity(**asdict(one)) for one in card.measured],
        draws=list(card.draws),
        limits={
            "image_bytes": limits.part_bytes,
            "image_pixels": picture.MAX_PIXELS,
            "image_side_pixels": picture.MIN_SIDE_PIXELS,
            "image_aspect": picture.MAX_ASPECT,
            "prompt_chars": checks.MAX_PROMPT_CHARS,
            "steps": flow.MAX_STEPS,
            "guidance": checks.MAX_GUIDANCE,
            "halo": checks.MAX_HALO_TOKENS,
            "refreshes": fidelity.MAX_REFRESHES,
            "step_cache": step_cache.MAX_STEP_CACHE,
            "feather": checks.MAX_FEATHER_PIXELS,
            "seed": checks.MAX_SEED,
            "deadline_ms": round(1000 * limits.deadline_seconds),
        },
    )
