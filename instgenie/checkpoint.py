"""Loading a model: a folder in the diffusers format, or the embedded model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from transformers import AutoTokenizer, BertModel, CLIPTextModel, T5EncoderModel

from instgenie.autoencoder import KlCodec, LatentCodec, PatchCodec
from instgenie.errors import CheckpointError
from instgenie.flow import FlowShift
from instgenie.models.flux import FluxForward
from instgenie.models.patch_autoencoder import PatchAutoencoder
from instgenie.text import BertPromptEncoder, FluxPromptEncoder, PromptEncoder

BUILTIN = Path(__file__).parent / "builtin"
SETTINGS_FILE = "instgenie.json"
_CLASSES = {"transformer": "FluxTransformer2DModel", "scheduler": "FlowMatchEulerDiscreteScheduler"}
# Options of that scheduler which change the noise levels in ways that `FlowShift` does not know.
_UNKNOWN_OPTIONS = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
    "shift_terminal",
)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How a model is used unless a request says otherwise; a folder's `instgenie.json` overrides these.

    Attributes:
        steps: denoising steps.
        guidance: guidance scale; classifier-free unless the model is guidance-distilled, 1 turns that off.
        canvas_tokens: image tokens of the size the model works best at.
        text_tokens: prompt states the transformer gets.
    """

    name: str
    steps: int = 28
    guidance: float = 30.0
    canvas_tokens: int = 4096
    text_tokens: int = 512

    def __post_init__(self) -> None:
        for name in ("steps", "canvas_tokens", "text_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise CheckpointError(f"{name} is {value!r}, not a positive whole number")
        if not isinstance(self.guidance, int | float):
            raise CheckpointError(f"guidance is {self.guidance!r}, not a number")


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A loaded model: its parts and what its requests need to know.

    Attributes:
        revision: xxh3-128 of configuration and weights: records of another revision are never used.
        takes_fill: whether the transformer's input carries the masked picture and the mask.
        distilled: whether the transformer takes the guidance scale as an input.
    """

    settings: ModelSettings
    revision: str
    forward: FluxForward
    codec: LatentCodec
    prompts: PromptEncoder
    shift: FlowShift
    takes_fill: bool
    distilled: bool


def load_checkpoint(folder: Path, dtype: torch.dtype, device: torch.device) -> Checkpoint:
    """Load a Flux-family model from a diffusers folder.

    Raises:
        CheckpointError: a part is missing, unreadable, or of a class that is not known here.
    """
    index = _read_json(folder / "model_index.json")
    codec_class = _class_of(index, "vae", folder)
    for part, name in _CLASSES.items():
        if _class_of(index, part, folder) != name:
            raise CheckpointError(f"{folder}: {part} class {_class_of(index, part, folder)!r} is not known")
    settings = _settings(folder)
    transformer = _load_model(FluxTransformer2DModel, folder / "transformer", torch_dtype=dtype).to(device)
    codec = _load_codec(folder, codec_class, dtype, device)
    prompts = _load_prompts(folder, index, settings, dtype, device)
    channels = transformer.config.in_channels
    fill_channels = 2 * codec.channels + codec.patch**2
    if channels not in (codec.channels, fill_channels):
        raise CheckpointError(
            f"{folder}: the transformer takes {channels} channels; with this autoencoder {codec.channels} (plain) or "
            f"{fill_channels} (fill) are known"
        )
    return Checkpoint(
        settings,
        _revision(folder, settings),
        FluxForward(transformer),
        codec,
        prompts,
        _shift(folder / "scheduler" / "scheduler_config.json"),
        takes_fill=channels == fill_channels,
        distilled=transformer.config.guidance_embeds,
    )


def _load(kind: Any, folder: Path, **options: Any) -> Any:
    """`kind.from_pretrained` of a local folder: nothing is fetched."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder")
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _load_model(kind: Any, folder: Path, **options: Any) -> Any:
    """A model from its own folder: nothing is unpickled, and a missing weight is an error, not a random one."""
    if issubclass(kind, ModelMixin):
        options["low_cpu_mem_usage"] = False  # True wants accelerate
    model, report = _load(kind, folder, use_safetensors=True, output_loading_info=True, **options)
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(f"{folder}: weights are missing: {', '.join(missing[:3])} ({len(missing)} in all)")
    return model


def _load_codec(folder: Path, name: str, dtype: torch.dtype, device: torch.device) -> LatentCodec:
    if name == "PatchAutoencoder":  # a few thousand weights: float32 costs nothing
        return PatchCodec(_load_model(PatchAutoencoder, folder / "vae").to(device))
    if name == "AutoencoderKL":
        return KlCodec(_load_model(AutoencoderKL, folder / "vae", torch_dtype=dtype).to(device))
    raise CheckpointError(f"{folder}: autoencoder class {name!r} is not known")


def _load_prompts(
    folder: Path, index: dict[str, Any], settings: ModelSettings, dtype: torch.dtype, device: torch.device
) -> PromptEncoder:
    name = _class_of(index, "text_encoder", folder)
    tokenizer = _load(AutoTokenizer, folder / "tokenizer")
    if name == "BertModel":
        bert = _load_model(BertModel, folder / "text_encoder", add_pooling_layer=False, dtype=torch.float32)
        return BertPromptEncoder(tokenizer, bert.to(device), settings.text_tokens)
    if name == "CLIPTextModel":
        clip = _load_model(CLIPTextModel, folder / "text_encoder", dtype=dtype).to(device)
        t5_tokenizer = _load(AutoTokenizer, folder / "tokenizer_2")
        t5 = _load_model(T5EncoderModel, folder / "text_encoder_2", dtype=dtype).to(device)
        return FluxPromptEncoder(tokenizer, clip, t5_tokenizer, t5, settings.text_tokens)
    raise CheckpointError(f"{folder}: text encoder class {name!r} is not known")


def _class_of(index: dict[str, Any], part: str, folder: Path) -> str:
    entry = index.get(part)
    if not isinstance(entry, list) or len(entry) != 2:
        raise CheckpointError(f"{folder}: model_index.json names no {part}")
    return str(entry[1])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected an object, got {type(content).__name__}")
    return content


def _settings(folder: Path) -> ModelSettings:
    path = folder / SETTINGS_FILE
    if not path.exists():
        return ModelSettings(folder.name)
    try:
        return ModelSettings(**_read_json(path))
    except (TypeError, CheckpointError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _shift(path: Path) -> FlowShift:
    config = _read_json(path)
    unknown = [name for name in _UNKNOWN_OPTIONS if config.get(name)]
    if config.get("time_shift_type", "exponential") != "exponential":
        unknown.append("time_shift_type")
    if unknown:
        raise CheckpointError(f"{path}: {unknown[0]} = {config[unknown[0]]!r} is not supported")
    return FlowShift(
        shift=config.get("shift", 1.0),
        dynamic=config.get("use_dynamic_shifting", False),
        base_tokens=config.get("base_image_seq_len", 256),
        max_tokens=config.get("max_image_seq_len", 4096),
        base_shift=config.get("base_shift", 0.5),
        max_shift=config.get("max_shift", 1.15),
    )


def _revision(folder: Path, settings: ModelSettings) -> str:
    """Digest of every file and setting that changes an activation and has no entry of its own in a template's key."""
    digest = xxhash.xxh3_128(f"text_tokens:{settings.text_tokens}:".encode())
    parts = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    for path in sorted(p for part in parts for p in (folder / part).glob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}:{path.stat().st_size}:".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
