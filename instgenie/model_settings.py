"""How a model is used unless a request says otherwise."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instgenie.errors import CheckpointError, ParameterError
from instgenie.fidelity import MeasuredSetting
from instgenie.flow import MAX_STEPS, FlowShift
from instgenie.parameter_checks import MAX_GUIDANCE

log = logging.getLogger(__name__)

SETTINGS_FILE = "instgenie.json"
FIDELITY_FILE = "fidelity.json"
MAX_CANVAS_TOKENS = 65_536
MAX_TEXT_TOKENS = 4096
MAX_DRAWS, MAX_DRAWS_BYTES = 2000, 30_000  # a replica tells them all in one frame's header
# Options of the scheduler which change the noise levels in ways that `FlowShift` does not know.
_UNKNOWN_OPTIONS = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
    "shift_terminal",
)
# Fields of `FlowShift` by that scheduler's names, with its defaults.
_SHIFT_FIELDS: dict[str, tuple[str, object]] = {
    "shift": ("shift", 1.0),
    "use_dynamic_shifting": ("dynamic", False),
    "base_image_seq_len": ("base_tokens", 256),
    "max_image_seq_len": ("max_tokens", 4096),
    "base_shift": ("base_shift", 0.5),
    "max_shift": ("max_shift", 1.15),
}


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """A model's defaults; a folder's `instgenie.json` overrides any of them.

    Attributes:
        steps: denoising steps.
        guidance: guidance scale; classifier-free unless the model is guidance-distilled, 1 turns that off.
        canvas_tokens: image tokens of the size the model works best at.
        text_tokens: prompt states the transformer gets.
        draws: names of what it can draw, where it was trained on a short list of things; empty where it was not.

    Raises:
        CheckpointError: a value of another type or outside its limits.
    """

    name: str
    steps: int
    guidance: float
    canvas_tokens: int = 4096
    text_tokens: int = 512
    draws: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        label: object = self.name
        if not isinstance(label, str) or not label:
            raise CheckpointError(f"name is {label!r}, not a text")
        for name, limit in (
            ("steps", MAX_STEPS),
            ("canvas_tokens", MAX_CANVAS_TOKENS),
            ("text_tokens", MAX_TEXT_TOKENS),
        ):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= limit:
                raise CheckpointError(f"{name} is {value!r}, not a whole number in 1..{limit}")
        guidance: object = self.guidance
        if isinstance(guidance, bool) or not isinstance(guidance, int | float) or not 0 <= guidance <= MAX_GUIDANCE:
            raise CheckpointError(f"guidance is {guidance!r}, not a number in 0..{MAX_GUIDANCE:g}")
        draws: object = self.draws
        if not isinstance(draws, tuple) or not all(isinstance(one, str) and one.strip() for one in draws):
            raise CheckpointError(f"draws is {repr(draws)[:80]}, not a list of names")
        if len(draws) > MAX_DRAWS or (num_bytes := sum(len(one.encode()) for one in draws)) > MAX_DRAWS_BYTES:
            told = f"{len(draws)} names" if len(draws) > MAX_DRAWS else f"{num_bytes} bytes"
            raise CheckpointError(f"draws has {told}, {MAX_DRAWS} and {MAX_DRAWS_BYTES} are the limits")


def default_settings(name: str, *, takes_fill: bool, distilled: bool) -> ModelSettings:
    """Settings of a model that names none, by its kind.

    They are the defaults of diffusers' pipelines: `FluxFillPipeline` for fill conditioning, `FluxPipeline` for
    guidance-distilled models (Flux dev); for neither (Flux schnell) those of its documentation: 4 steps, no guidance,
    256 text tokens. Without distilled guidance those pipelines ignore the scale, and so it is 1 here.
    """
    if takes_fill:
        return ModelSettings(name, steps=50, guidance=30.0 if distilled else 1.0)
    if distilled:
        return ModelSettings(name, steps=28, guidance=3.5)
    return ModelSettings(name, steps=4, guidance=1.0, text_tokens=256)


def read_settings(
    folder: Path, *, takes_fill: bool, distilled: bool, text_positions: int = MAX_TEXT_TOKENS
) -> ModelSettings:
    """The settings of a model folder.

    Args:
        text_positions: the most tokens that its text encoder takes.
    Raises:
        CheckpointError: an entry of `instgenie.json` is unknown or outside its limits.
    """
    settings = default_settings(folder.resolve().name or "model", takes_fill=takes_fill, distilled=distilled)
    settings = dataclasses.replace(settings, text_tokens=min(settings.text_tokens, text_positions))
    path = folder / SETTINGS_FILE
    if not path.exists():
        return settings
    try:
        values = read_json(path)
        if isinstance(names := values.get("draws"), list):
            values["draws"] = tuple(names)
        settings = dataclasses.replace(settings, **values)
        if settings.text_tokens > text_positions:
            message = f"text_tokens is {settings.text_tokens}, the text encoder has {text_positions} positions"
            raise CheckpointError(message)
        return settings
    except TypeError as error:
        known = ", ".join(field.name for field in dataclasses.fields(settings))
        raise CheckpointError(f"{path}: an entry is none of {known}: {error}") from error
    except CheckpointError as error:
        raise error if str(path) in str(error) else CheckpointError(f"{path}: {error}") from error


def read_measured(folder: Path, revision: str) -> tuple[MeasuredSetting, ...]:
    """How close a model folder's edits come to dense ones; empty where it has no `fidelity.json`.

    Args:
        revision: of the model; a file that says that it was measured for another one is left unread.
    Raises:
        CheckpointError: the file is not what `scripts/bench/fidelity.py` writes.
    """
    path = folder / FIDELITY_FILE
    if not path.exists():
        return ()
    content = read_json(path)
    try:
        if (measured := content.get("about", {}).get("revision", revision)) != revision:
            log.warning("%s: was measured for other weights, of revision %.40s: not used", path, measured)
            return ()
        return tuple(MeasuredSetting(**row) for row in content["settings"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: settings are not what they have to be: {error}") from error


def read_shift(path: Path) -> FlowShift:
    """The noise schedule that a `scheduler_config.json` describes.

    Raises:
        CheckpointError: it is unreadable, or of a kind that is not known here.
    """
    config = read_json(path)
    unknown = [name for name in _UNKNOWN_OPTIONS if config.get(name)]
    if config.get("time_shift_type", "exponential") != "exponential":
        unknown.append("time_shift_type")
    if config.get("num_train_timesteps", 1000) != 1000:  # the transformer takes the noise level times 1000
        unknown.append("num_train_timesteps")
    if unknown:
        raise CheckpointError(f"{path}: {unknown[0]} = {config[unknown[0]]!r} is not supported")
    values: dict[str, Any] = {ours: config.get(name, default) for name, (ours, default) in _SHIFT_FIELDS.items()}
    try:
        return FlowShift(**values)
    except ParameterError as error:
        theirs = {ours: name for name, (ours, _) in _SHIFT_FIELDS.items()}[error.parameter]
        raise CheckpointError(f"{path}: {theirs}: {str(error).removeprefix(f'{error.parameter}: ')}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: there is none.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected an object, got {type(content).__name__}")
    return content
