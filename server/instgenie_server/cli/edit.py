"""`instgenie edit`: one edit, in this process or by a server."""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instgenie.fidelity import DEFAULT_PSNR_DB
from instgenie_server.cli.fidelity_option import FidelityOption
from instgenie_server.cli.loading import DtypeChoice, DtypeOption, ModelOption, ThreadsOption, load_editor
from instgenie_server.cli.output_file import OutputFile
from instgenie_server.cli.record_folder import CacheDirOption, open_records, record_disk_bytes, record_folder
from instgenie_server.cli.remote import ApiKeyOption
from instgenie_server.cli.status_line import status_line

if TYPE_CHECKING:
    from PIL import Image

    from instgenie.mask import Mask
    from instgenie.tracing import Tracer
    from instgenie_server.cli.loading import OpenStore


class MaskModeChoice(StrEnum):
    """How a mask picture selects pixels."""

    AUTO = "auto"
    ALPHA = "alpha"
    LUMINANCE = "luminance"


class CacheChoice(StrEnum):
    """Whether the template's records are used."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


# The defaults of what goes into an EditRequest are its own: a test compares them, since importing it here takes time.
def edit(
    context: typer.Context,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The picture to edit: PNG, JPEG or WebP.")],
    prompt: Annotated[str, typer.Option(help="What to draw under the mask.")],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="The edited picture. Its extension picks the format: .png and .webp leave every pixel outside the "
            "mask as it is; .jpg cannot, for it stores every pixel anew. Colour profiles are kept, EXIF data is not.",
        ),
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Picture of IMAGE's size that says what is edited. May be left out if IMAGE has transparent parts: "
            "those are edited then."
        ),
    ] = None,
    mask_mode: Annotated[
        MaskModeChoice,
        typer.Option(help="alpha: transparent is edited. luminance: white is. auto: alpha if it varies, else white."),
    ] = MaskModeChoice.AUTO,
    seed: Annotated[int, typer.Option(help="Of the noise under the mask: another seed, another picture.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.", show_default="the model's")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.", show_default="the model's")] = None,
    strength: Annotated[
        float, typer.Option(help="Share of the steps that is run, up to 1; below 1 the edit starts from IMAGE.")
    ] = 1.0,
    halo: Annotated[int, typer.Option(help="Tokens computed around the masked ones.")] = 1,
    refreshes: Annotated[
        int | None,
        typer.Option(
            help="Steps that compute every token, for a result closer to the dense one.",
            show_default="one for every 20 steps, none below 10",
        ),
    ] = None,
    step_cache: Annotated[
        int,
        typer.Option(help="Compute one step in so many, up to 10, after the first three, and extrapolate the others."),
    ] = 1,
    fidelity: Annotated[
        str | None,
        typer.Option(
            metavar="exact|auto[:DB]",
            help="Chooses halo, refreshes and step cache. auto: the cheapest setting of which nine in ten edits of "
            f"the model had this PSNR in dB inside the mask to the dense edit's, {DEFAULT_PSNR_DB:g} if none is given; "
            "every token where no setting had it. exact: every token.",
            show_default="as these say",
        ),
    ] = None,
    feather: Annotated[int, typer.Option(help="Width in pixels of the blend inside the mask's border.")] = 0,
    template_prompt: Annotated[str, typer.Option(help="Prompt that IMAGE is recorded with.")] = "",
    template_seed: Annotated[int, typer.Option(help="Seed that IMAGE is recorded with.")] = 0,
    cache: Annotated[
        CacheChoice,
        typer.Option(
            help="on: record IMAGE unless its records are there, then compute masked tokens only. off: compute every "
            "token (dense). auto: on if its records are there, or recording pays within this one edit."
        ),
    ] = CacheChoice.AUTO,
    cache_dir: CacheDirOption = None,
    model: ModelOption = None,
    dtype: DtypeOption = DtypeChoice.AUTO,
    threads: ThreadsOption = None,
    timings: Annotated[bool, typer.Option("--timings", help="Print one JSON object with timings on stdout.")] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Run the edit again, dense and cached, and tell how they differ.")
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write what is done when, as Chrome trace JSON: https://ui.perfetto.dev draws it.",
            show_default="not written",
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Have a server make the edit. It uses IMAGE's records if there are any, and makes them if not, unless "
            "the cache is off.",
            show_default="edit in this process",
        ),
    ] = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Edit the masked part of IMAGE as PROMPT says."""
    started = time.perf_counter()
    from instgenie.errors import ParameterError
    from instgenie.known_names import unknown_hint
    from instgenie.request import EditRequest
    from instgenie_server.cli.edit_report import chosen_settings, edit_report, remote_report, summary

    if server is not None:
        _check_not_local(compare=compare, model=model, dtype=dtype, threads=threads, cache_dir=cache_dir, trace=trace)
    if compare and cache is CacheChoice.OFF:
        raise ParameterError("compare", "compares the cached edit with the dense one, but the cache is off")
    asked = _fidelity(context, fidelity)
    ruled_out = "--compare" if compare else "--cache on" if cache is CacheChoice.ON else None
    if server is None and asked is not None and asked.psnr_db is None and ruled_out is not None:
        raise ParameterError("fidelity", asked.rules_out(ruled_out, ()))
    output = OutputFile(out)
    picture, pixels = _read_pictures(image, mask, mask_mode)
    request = EditRequest(
        picture=picture,
        mask=pixels,
        prompt=prompt,
        seed=seed,
        steps=steps,
        guidance=guidance,
        strength=strength,
        halo=halo,
        refreshes=refreshes,
        step_cache=step_cache,
        feather=feather,
        template_seed=template_seed,
        template_prompt=template_prompt,
        cached=cache is not CacheChoice.OFF,
    )
    output.check(request)
    if server is not None:
        from instgenie_server.cli.remote_edit import edit_remotely

        with status_line("asking the server") as say:
            remote = edit_remotely(server, api_key, request, image, mask, mask_mode.value, say, fidelity=asked)
            output.write(remote.picture)
        seconds = time.perf_counter() - started
        if timings:
            typer.echo(json.dumps(remote_report(remote, request, seconds)))
        typer.echo(summary(out, seconds, remote.timings, chosen=remote.fidelity), err=True)
        _tell(unknown_hint(prompt, remote.about.get("model", "the model"), remote.draws))
        return
    with _tracing(trace) as tracer, status_line("loading the model") as say:
        with tracer.span("load model"):
            loaded = load_editor(model, dtype, threads, None if cache is CacheChoice.OFF else _opener(cache_dir))
        with closing(loaded.editor):
            checkpoint = loaded.editor.checkpoint
            chosen = None
            if asked is not None:
                request = asked.settled(request, checkpoint.measured, checkpoint.settings.steps)
                if not request.cached and ruled_out is not None:
                    raise ParameterError("fidelity", asked.rules_out(ruled_out, checkpoint.measured))
                chosen = chosen_settings(request)  # before the cache is left alone, where recording does not pay
            if cache is CacheChoice.AUTO and request.cached and not compare:
                request = replace(request, cached=loaded.editor.caching_pays(request))
            say("editing")
            with tracer.span("edit", cached=request.cached) as span:
                result = loaded.editor.edit(request)
                span.set(cache=result.timings.cache, steps=len(result.timings.step_ms))
            with tracer.span("write picture"):
                output.write(result.picture)
            seconds = time.perf_counter() - started
            comparison = None
            if compare:
                from instgenie_server.cli.comparison import compare_with_dense

                say("editing again, dense and cached")
                with tracer.span("compare"):
                    comparison = compare_with_dense(loaded.editor, request)
            if result.timings.cache == "cold":
                say(f"wrote {out}; writing its records")
                with tracer.span("write records"):
                    loaded.editor.flush()
    if timings:
        typer.echo(json.dumps(edit_report(loaded, request, result.timings, comparison, chosen)))
    typer.echo(summary(out, seconds, result.timings, comparison, chosen), err=True)
    _tell(unknown_hint(prompt, checkpoint.settings.name, checkpoint.settings.draws))


def _tell(hint: str | None) -> None:
    if hint is not None:
        typer.echo(f"Note: {hint}", err=True)


def _fidelity(context: typer.Context, text: str | None) -> FidelityOption | None:
    """Raise ParameterError where it is none, or what it chooses is given, too."""
    from instgenie.errors import ParameterError

    if text is None:
        return None
    for name in ("halo", "refreshes", "step_cache"):
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise ParameterError("fidelity", f"chooses {name.replace('_', '-')}, which is to be left out then")
    return FidelityOption.parse(text)


def _opener(cache_dir: str | None) -> OpenStore:
    folder = record_folder(cache_dir)
    disk_bytes = 0 if folder is None else record_disk_bytes(folder)
    return lambda arena: open_records(folder, disk_bytes, arena)


def _tracing(trace: Path | None) -> AbstractContextManager[Tracer]:
    from instgenie.tracing import current_tracer, open_trace

    return nullcontext(current_tracer()) if trace is None else open_trace(trace, "instgenie edit")


def _check_not_local(
    *,
    compare: bool,
    model: Path | None,
    dtype: DtypeChoice,
    threads: int | None,
    cache_dir: str | None,
    trace: Path | None,
) -> None:
    """Raise ParameterError for what a server decides itself."""
    from instgenie.errors import ParameterError

    given = {
        "compare": compare,
        "model": model,
        "dtype": dtype is not DtypeChoice.AUTO,
        "threads": threads,
        "cache-dir": cache_dir,
        "trace": trace,
    }
    for name, value in given.items():
        if value:
            raise ParameterError(name, "is for edits in this process: it does not go with --server")


def _read_pictures(image: Path, mask: Path | None, mode: MaskModeChoice) -> tuple[Image.Image, Mask]:
    """The picture and what of it is edited; without a mask picture, its transparent pixels."""
    from instgenie.errors import ParameterError
    from instgenie.mask import read_mask
    from instgenie.picture import open_picture

    picture = open_picture(image, "image")
    if mask is not None:
        return picture, read_mask(open_picture(mask, "mask"), picture.size, mode.value)
    if mode is MaskModeChoice.LUMINANCE:
        raise ParameterError("mask", "is needed where the mask mode is luminance")
    low, high = picture.getchannel("A").getextrema() if picture.mode == "RGBA" else (255, 255)
    if low == high:
        raise ParameterError("mask", f"is needed: {image} has no transparent parts that could say what is edited")
    return picture, read_mask(picture, picture.size, "alpha")
