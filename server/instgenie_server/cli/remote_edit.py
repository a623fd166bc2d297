"""`instgenie edit --server`: the edit of this command line, made elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instgenie_server.cli.remote import ask

if TYPE_CHECKING:
    from PIL import Image

    from instgenie.orders import PhaseTimings
    from instgenie.request import EditRequest
    from instgenie_server.cli.fidelity_option import FidelityOption
    from instgenie_server.cli.status_line import Say
    from instgenie_server.client import Connection


@dataclass(frozen=True, slots=True, eq=False)
class EditedRemotely:
    """What a server made of an edit.

    Attributes:
        about: where it was made: the server's address, the edit's id and, if the server tells, the model and its dtype.
        draws: names of what the model can draw, if it has a list of these.
        fidelity: what `--fidelity` chose; None where it was not given, or the server does not tell.
    """

    picture: Image.Image
    timings: PhaseTimings
    about: dict[str, str]
    draws: tuple[str, ...]
    fidelity: dict[str, Any] | None = None


def edit_remotely(
    server: str,
    api_key: str | None,
    request: EditRequest,
    image: Path,
    mask: Path | None,
    mask_mode: str,
    say: Say,
    *,
    fidelity: FidelityOption | None = None,
) -> EditedRemotely:
    """Have a server make the edit. The files are sent as they are, the other values are the request's.

    Raises:
        RemoteError: the server is out of reach, or does not make the edit.
        ParameterError: the address is none.
    """
    from instgenie.errors import PictureError
    from instgenie.picture import open_picture
    from instgenie_server.client import RemoteEdit, RemoteError, UnreachableError, run_edit

    fields = edit_fields(request, mask_mode if mask else "alpha", fidelity)
    uploads = image.read_bytes(), None if mask is None else mask.read_bytes()

    async def work(connection: Connection) -> tuple[RemoteEdit, dict[str, Any]]:
        edit = await run_edit(connection, *uploads, fields, say)
        try:
            return edit, await connection.json("GET", "/v1/models")
        except RemoteError:  # the picture is there
            return edit, {}

    edit, models = ask(server, api_key, work)
    try:
        picture = open_picture(edit.image, "result")
    except PictureError as error:
        raise UnreachableError(f"{server} sent no picture: {error}") from error
    about, draws = {"server": server, "id": str(edit.job["id"])}, list[str]()
    for model in models.get("data", [])[:1]:
        about |= {"model": str(model.get("id")), "dtype": str(model.get("dtype"))}
        told = model.get("draws")
        names = told if isinstance(told, list) else []
        draws += [name for name in names if isinstance(name, str) and name.isprintable()]
    return EditedRemotely(picture, edit.timings, about, tuple(draws), edit.job.get("fidelity"))


def edit_fields(request: EditRequest, mask_mode: str, fidelity: FidelityOption | None = None) -> dict[str, str]:
    """The request as fields of a form; what is None is left to the server, and so is what `fidelity` chooses."""
    values: dict[str, object] = {
        "prompt": request.prompt,
        "seed": request.seed,
        "steps": request.steps,
        "guidance": request.guidance,
        "strength": request.strength,
        "halo": request.halo,
        "refreshes": request.refreshes,
        "step_cache": request.step_cache,
        "feather": request.feather,
        "template_prompt": request.template_prompt,
        "template_seed": request.template_seed,
        "mask_mode": mask_mode,
        "cache": "auto" if request.cached else "off",
    }
    if fidelity is not None:
        values |= {"halo": None, "refreshes": None, "step_cache": None, "fidelity": fidelity.field}
    return {name: str(value) for name, value in values.items() if value is not None}
