"""The part of AUTOMATIC1111's API that inpainting clients use."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from aiohttp import web

from instgenie.orders import StepReport
from instgenie_server.app_keys import IDENTITY, SETTINGS
from instgenie_server.intake import read_img2img, to_orders
from instgenie_server.routes.keys import DECODER, PIXELS, UPLOADS, engine_of
from instgenie_server.routes.read_edit import drawn_seed, new_order_id
from instgenie_server.routes.reply import json_reply, off_loop_if_large, to_base64
from instgenie_server.schemas import A1111Progress, A1111Reply

routes = web.RouteTableDef()


@dataclass(slots=True)
class _Running:
    """What a tenant's newest img2img does; its clients ask for the progress without naming one.

    Attributes:
        reports: the last step of each of its results, None before the first.
    """

    started_at: float
    reports: list[StepReport | None]

    @property
    def share(self) -> float:
        """Of all its results, how much is done: 0..1."""
        return sum(report.step / report.steps for report in self.reports if report) / len(self.reports)

    @property
    def foremost(self) -> StepReport | None:
        """Of the results that are not done yet, the one that is farthest; where all are, the last."""
        begun = [report for report in self.reports if report]
        return max(begun, key=lambda report: (report.step < report.steps, report.step / report.steps), default=None)

    @property
    def done(self) -> int:
        """Results that have had all their steps."""
        return sum(report is not None and report.step == report.steps for report in self.reports)


RUNNING = web.AppKey("a1111_running", dict[str, _Running])


@routes.post("/sdapi/v1/img2img")
async def img2img(request: web.Request) -> web.Response:
    """Edit at once."""
    engine = engine_of(request)
    limits = request.app[SETTINGS].limits
    asked = await read_img2img(request, limits, request.app[UPLOADS])
    files, mode = asked.uploads, asked.form.mask_mode
    with request.app[PIXELS].hold() as hold:
        hold.take(len(files.image) + len(files.mask or b""))
        picture, mask = await request.app[DECODER].picture_and_mask(
            files.image, files.mask, mode, invert=asked.invert_mask, param="init_images", take=hold.take
        )
        seed = drawn_seed() if asked.form.seed is None else asked.form.seed
        tenant = request[IDENTITY].tenant
        orders = to_orders(asked.form, new_order_id(request), picture, mask, seed, tenant)
        with engine.edits.room(engine.edits.predicted_seconds(orders[0]), len(orders)) as room:
            running = request.app[RUNNING][tenant] = _Running(time.time(), [None] * len(orders))

            def report(number: int, step: StepReport) -> None:
                running.reports[number] = StepReport(step.step, step.steps)

            try:
                outcomes = await engine.edits.run(orders, room, limits.deadline_seconds, report)
            finally:
                if request.app[RUNNING].get(tenant) is running:
                    del request.app[RUNNING][tenant]

    def build() -> web.Response:
        prompt = asked.form.prompt
        info = {"seed": seed, "all_seeds": [order.seed for order in orders], "prompt": prompt}
        return json_reply(
            A1111Reply(
                images=[to_base64(outcome.image) for outcome in outcomes],
                parameters=asked.parameters | {"seed": seed},
                info=json.dumps(info | {"infotexts": [prompt for _ in orders]}),
            )
        )

    return await off_loop_if_large(sum(len(outcome.image) for outcome in outcomes), build)


@routes.get("/sdapi/v1/progress")
async def progress(request: web.Request) -> web.Response:
    """How far the caller's newest img2img is."""
    running = request.app[RUNNING].get(request[IDENTITY].tenant)
    share = running.share if running else 0.0
    elapsed = time.time() - running.started_at if running else 0.0
    foremost = running.foremost if running else None
    state = {
        "sampling_step": foremost.step if foremost else 0,
        "sampling_steps": foremost.steps if foremost else 0,
        "job_no": min(running.done, len(running.reports) - 1) if running else 0,
        "job_count": len(running.reports) if running else 0,
    }
    remaining = elapsed * (1 - share) / share if share else 0.0
    return json_reply(A1111Progress(progress=share, eta_relative=remaining, state=state))
