"""One asynchronous edit from its upload to its picture."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from instgenie.orders import PhaseTimings
from instgenie_server.client.connection import Connection
from instgenie_server.client.errors import RemoteError, ReplyError, UnreachableError
from instgenie_server.client.form import upload_form

MAX_BREAKS = 5
BREAK_SECONDS = 1.0
CANCEL_SECONDS = 5.0

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RemoteEdit:
    """A finished edit: the file that the server made, and the job as `GET /v1/edits/{id}` tells it."""

    image: bytes
    job: dict[str, Any]

    @property
    def timings(self) -> PhaseTimings:
        """What it took.

        Raises:
            UnreachableError: the server tells something else, as one of another version would.
        """
        try:
            told = {"tier": None} | self.job["timings"]  # older servers do not tell it
            return PhaseTimings(**{field.name: told[field.name] for field in dataclasses.fields(PhaseTimings)})
        except (LookupError, TypeError) as error:
            raise UnreachableError(f"the server does not tell {error} of an edit: is its version another?") from error


async def run_edit(
    server: Connection, image: bytes, mask: bytes | None, fields: Mapping[str, str], say: Progress
) -> RemoteEdit:
    """Send an edit, follow it to its end and fetch the picture. Cancelling the call cancels the edit.

    Args:
        fields: of the form, besides the pictures.
        say: told in words how far it is.
    Raises:
        RemoteError: the server is out of reach, refuses the edit, or the edit fails.
    """
    say("uploading")
    form = upload_form(fields, {"image": image, "mask": mask})
    # With a key, for the upload may have to be sent again although the server took it.
    accepted = await server.json("POST", "/v1/edits", form, Idempotency_Key=secrets.token_hex(16))
    try:
        path = f"/v1/edits/{accepted['id']}"
    except KeyError as error:
        raise UnreachableError(f"{server.url} did not answer as an instgenie server does") from error
    try:
        await _until_its_end(server, path, say)
    except asyncio.CancelledError:
        await _cancel(server, path)
        raise
    job = await server.json("GET", path)
    if job.get("status") != "done":
        told = job.get("error") or {}
        raise ReplyError(200, told.get("message", f"the edit is {job.get('status')}"), told.get("code"))
    return RemoteEdit(await server.bytes("GET", f"{path}/image"), job)


async def _until_its_end(server: Connection, path: str, say: Progress) -> None:
    """Follow the events; where they break off, as in a restart of the server, from the last one on."""
    last_id: str | None = None
    breaks = 0
    while True:
        try:
            headers = {} if last_id is None else {"Last_Event_ID": last_id}
            event = ""
            async with contextlib.aclosing(server.event_lines(f"{path}/events", **headers)) as lines:
                async for line in lines:
                    name, _, value = line.partition(": ")
                    if name == "id":
                        last_id = value
                    elif name == "event":
                        event = value
                    elif name == "data":
                        breaks = 0
                        if event not in ("queued", "started", "step"):
                            return
                        say(_words(event, value))
            error: RemoteError = UnreachableError(f"{server.url} ended the events of an edit that goes on")
        except UnreachableError as broken:
            error = broken
        except ReplyError as refused:
            if refused.status != 503:
                raise
            error = refused
        breaks += 1
        if breaks > MAX_BREAKS:
            raise error
        await asyncio.sleep(BREAK_SECONDS * breaks)


def _words(event: str, data: str) -> str:
    try:
        fields = json.loads(data)
    except ValueError:
        return event
    if event == "step":
        return f"step {fields.get('step')} of {fields.get('steps')}"
    if event == "queued" and fields.get("position"):
        return f"waiting, place {fields['position']}"
    return event


async def _cancel(server: Connection, path: str) -> None:
    """Nobody waits for the edit any more: say so, if the server can be reached quickly."""
    try:
        async with asyncio.timeout(CANCEL_SECONDS):
            await server.json("DELETE", path)
    except (RemoteError, TimeoutError):
        return
