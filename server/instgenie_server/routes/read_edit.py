"""From a request's form to orders and jobs, for every route that takes one."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from aiohttp import web

from instgenie.orders import EditOrder, Pixels
from instgenie_server.app_keys import IDENTITY, METRICS, REQUEST_ID, SETTINGS
from instgenie_server.intake import (
    EditForm,
    Uploads,
    read_edit_form,
    read_form,
    read_uploads,
    settled,
    to_orders,
)
from instgenie_server.routes.keys import DECODER, PIXELS, UPLOADS, engine_of

MAX_DRAWN_SEED = 2**31


@dataclass(frozen=True, slots=True)
class ReadEdit:
    """A request for edits, read and checked.

    Attributes:
        seed: the given or a drawn one.
        model_steps: of the full schedule of the model that is served.
    """

    form: EditForm
    uploads: Uploads
    picture: Pixels
    mask: bytes
    seed: int
    model_steps: int
    tenant: str

    def orders(self, order_id: str) -> tuple[EditOrder, ...]:
        """One order for each result, without previews where nobody would see them."""
        orders = to_orders(self.form, order_id, self.picture, self.mask, self.seed, self.tenant)
        return orders if self.form.stream else tuple(replace(order, previews=0) for order in orders)


@asynccontextmanager
async def read_edit(request: web.Request, kind: type[EditForm]) -> AsyncIterator[ReadEdit]:
    """Read the form of a request, decode its pictures and check every value; their memory is held for the block.

    Raises:
        ApiError: the request is at fault, or there is no memory for its pictures.
    """
    card = engine_of(request).replica.model
    body = await read_form(request, request.app[SETTINGS].limits, request.app[UPLOADS])
    form = settled(read_edit_form(body.fields, [card.name], kind), card)
    files = read_uploads(body)
    del body  # further images are not used, and are not to wait with the edit
    request.app[METRICS].observe_upload(len(files.image) + len(files.mask or b""))
    with request.app[PIXELS].hold() as hold:
        hold.take(len(files.image) + len(files.mask or b""))
        decoder = request.app[DECODER]
        picture, mask = await decoder.picture_and_mask(files.image, files.mask, form.mask_mode, take=hold.take)
        seed = drawn_seed() if form.seed is None else form.seed
        yield ReadEdit(form, files, picture, mask, seed, card.steps, request[IDENTITY].tenant)


def drawn_seed() -> int:
    """A seed for a request that has none."""
    return secrets.randbelow(MAX_DRAWN_SEED)


def new_order_id(request: web.Request) -> str:
    """An id for the orders of a request, told from others that came with the same request id."""
    return f"{request[REQUEST_ID]}-{secrets.token_hex(6)}"
