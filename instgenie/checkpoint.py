"""Loading a model: a folder in the diffusers format, or the embedded model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.models.modeling_utils import ModelMixin
from transformers import AutoTokenizer, BertModel, CLIPTextModel, T5EncoderModel

from instgenie.autoencoder import KlCodec, LatentCodec, PatchCodec
from instgenie.errors import CheckpointError
from instgenie.fidelity import MeasuredSetting
from instgenie.flow import FlowShift
from instgenie.model_settings import MAX_TEXT_TOKENS, ModelSettings, read_json, read_measured, read_settings, read_shift
from instgenie.models.flux import FluxForward
from instgenie.models.patch_autoencoder import PatchAutoencoder
from instgenie.revision import HashFile, RememberedHashes, revision
from instgenie.text import BertPromptEncoder, FluxPromptEncoder, PromptEncoder

BUILTIN = Path(__file__).parent / "builtin"
_CLASSES = {"transformer": "FluxTransformer2DModel", "scheduler": "FlowMatchEulerDiscreteScheduler"}


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A loaded model: its parts and what its requests need to know.

    Attributes:
        revision: xxh3-128 of configuration and weights: records of another revision are never used.
        takes_fill: whether the transformer's input carries the masked picture and the mask.
        distilled: whether the transformer takes the guidance scale as an input.
        measured: how close its edits come to dense ones, where somebody measured that.
    """

    settings: ModelSettings
    revision: str
    forward: FluxForward
    codec: LatentCodec
    prompts: PromptEncoder
    shift: FlowShift
    takes_fill: bool
    distilled: bool
    measured: tuple[MeasuredSetting, ...] = ()


def load_checkpoint(
    folder: Path, dtype: torch.dtype, device: torch.device, hash_one: HashFile | None = None
) -> Checkpoint:
    """Load a Flux-family model from a diffusers folder.

    Args:
        hash_one: hash of one of its files; None is one that remembers large files in the user's cache folder.
    Raises:
        CheckpointError: a part is missing, unreadable, or of a class that is not known here; the parts do not fit.
    """
    if not (folder / "model_index.json").exists():
        raise CheckpointError(f"{folder}: is no model in the diffusers format: it has no model_index.json")
    index = read_json(folder / "model_index.json")
    codec_class = _class_of(index, "vae", folder)
    for part, name in _CLASSES.items():
        if _class_of(index, part, folder) != name:
            raise CheckpointError(f"{folder}: {part} class {_class_of(index, part, folder)!r} is not known")
    shift = read_shift(folder / "scheduler" / "scheduler_config.json")
    _check_transformer(folder / "transformer")
    transformer = _load_model(FluxTransformer2DModel, folder / "transformer", torch_dtype=dtype).to(device)
    codec = _load_codec(folder, codec_class, dtype, device)
    _check_velocity(folder / "transformer", transformer, codec)
    channels = transformer.config.in_channels
    fill_channels = 2 * codec.channels + codec.patch**2
    if channels not in (codec.channels, fill_channels):
        raise CheckpointError(
            f"{folder}: the transformer takes {channels} channels; with this autoencoder {codec.channels} (plain) or "
            f"{fill_channels} (fill) are known"
        )
    kind = {"takes_fill": channels == fill_channels, "distilled": transformer.config.guidance_embeds}
    settings = read_settings(folder, **kind, text_positions=_text_positions(folder, index))
    prompts = _load_prompts(folder, index, settings, dtype, device)
    _check_prompts(folder, prompts, transformer)
    found = revision(folder, settings, hash_one or RememberedHashes())
    return Checkpoint(
        settings,
        found,
        FluxForward(transformer),
        codec,
        prompts,
        shift,
        **kind,
        measured=read_measured(folder, found),
    )


def _check_transformer(folder: Path) -> None:
    """Raise where the configuration is one that loads, but cannot run."""
    path = folder / "config.json"
    config = read_json(path)
    axes, head_dim = config.get("axes_dims_rope", [16, 56, 56]), config.get("attention_head_dim", 128)
    if not isinstance(axes, list) or len(axes) != 3 or not all(type(a) is int and a > 0 and a % 2 == 0 for a in axes):
        raise CheckpointError(f"{path}: axes_dims_rope = {axes!r} is not three even numbers")
    if sum(axes) != head_dim:
        raise CheckpointError(
            f"{path}: axes_dims_rope = {axes} add up to {sum(axes)}, attention_head_dim is {head_dim}"
        )
    if not isinstance(config.get("guidance_embeds", False), bool):
        raise CheckpointError(f"{path}: guidance_embeds = {config['guidance_embeds']!r} is neither true nor false")


def _check_autoencoder(folder: Path) -> None:
    """Raise where an AutoencoderKL has no blocks: diffusers says only that an index is out of range."""
    path = folder / "config.json"
    widths = read_json(path).get("block_out_channels", [64])
    if not isinstance(widths, list) or not widths or any(type(width) is not int or width < 1 for width in widths):
        raise CheckpointError(f"{path}: block_out_channels = {widths!r} is not a list of numbers above 0")


def _check_velocity(folder: Path, transformer: FluxTransformer2DModel, codec: LatentCodec) -> None:
    """Raise where what the transformer predicts for a token is not as long as a token of the autoencoder."""
    found = transformer.proj_out.out_features
    if found != codec.channels:
        raise CheckpointError(
            f"{folder / 'config.json'}: out_channels = {transformer.config.out_channels} and patch_size = "
            f"{transformer.config.patch_size} give {found} channels, a token of this autoencoder has {codec.channels}"
        )


def _text_positions(folder: Path, index: dict[str, Any]) -> int:
    """The most text tokens that the encoder takes; T5 has no limit of its own."""
    if _class_of(index, "text_encoder", folder) != "BertModel":
        return MAX_TEXT_TOKENS
    path = folder / "text_encoder" / "config.json"
    positions = read_json(path).get("max_position_embeddings", 512)
    if type(positions) is not int or positions < 1:
        raise CheckpointError(f"{path}: max_position_embeddings = {positions!r} is not a number above 0")
    return positions


def _check_prompts(folder: Path, prompts: PromptEncoder, transformer: FluxTransformer2DModel) -> None:
    """Encode a prompt, and raise where the transformer could not take it."""
    try:
        (prompt,) = prompts.encode(["x"])
    except MemoryError:
        raise
    except Exception as error:
        raise CheckpointError(f"{folder}: the text encoder cannot encode a prompt: {error}") from error
    found = prompt.states.shape[-1], prompt.pooled.shape[-1]
    expected = transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim
    if found != expected:
        raise CheckpointError(
            f"{folder}: the text encoder gives {found[0]} and {found[1]} channels (states, pooled), the transformer "
            f"takes {expected[0]} and {expected[1]}"
        )


def _load(kind: Any, folder: Path, **options: Any) -> Any:
    """`kind.from_pretrained` of a local folder: nothing is fetched."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder")
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except MemoryError:
        raise
    except Exception as error:  # tokenizers and the configurations of transformers raise bare ones
        raise CheckpointError(f"{folder}: {error}") from error


def _load_tokenizer(folder: Path) -> Any:
    """A tokenizer. Code that the folder brings is refused: by default transformers asks for leave on stdin."""
    return _load(AutoTokenizer, folder, trust_remote_code=False)


def _check_vocabulary(folder: Path, tokenizer: Any, model: Any) -> None:
    """Raise where the tokenizer of a folder gives tokens that its text encoder has no embedding of."""
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= model.config.vocab_size:
        raise CheckpointError(
            f"{folder}: token {largest} is beyond the text encoder's vocab_size, {model.config.vocab_size}"
        )


def _load_model(kind: Any, folder: Path, *, unused: tuple[str, ...] = (), **options: Any) -> Any:
    """A model from its own folder: nothing is unpickled, and a weight that is missing or too many is an error.

    Weights whose names begin with one of `unused` may be there.
    """
    if issubclass(kind, ModelMixin):
        options["low_cpu_mem_usage"] = False  # True wants accelerate
    model, report = _load(kind, folder, use_safetensors=True, output_loading_info=True, **options)
    for problem in ("missing", "unexpected"):
        names = sorted(name for name in report[f"{problem}_keys"] if not name.startswith(unused))
        if names:
            raise CheckpointError(f"{folder}: {problem} weights: {', '.join(names[:3])} ({len(names)} in all)")
    return model


def _load_codec(folder: Path, name: str, dtype: torch.dtype, device: torch.device) -> LatentCodec:
    if name == "PatchAutoencoder":  # a few thousand weights: float32 costs nothing
        return PatchCodec(_load_model(PatchAutoencoder, folder / "vae").to(device))
    if name == "AutoencoderKL":
        _check_autoencoder(folder / "vae")
        autoencoder = _load_model(AutoencoderKL, folder / "vae", torch_dtype=dtype).to(device)
        try:
            return KlCodec(autoencoder)
        except ValueError as error:
            raise CheckpointError(f"{folder / 'vae' / 'config.json'}: {error}") from error
    raise CheckpointError(f"{folder}: autoencoder class {name!r} is not known")


def _load_prompts(
    folder: Path, index: dict[str, Any], settings: ModelSettings, dtype: torch.dtype, device: torch.device
) -> PromptEncoder:
    name = _class_of(index, "text_encoder", folder)
    tokenizer = _load_tokenizer(folder / "tokenizer")
    if name == "BertModel":
        part, dtype = folder / "text_encoder", torch.float32
        bert = _load_model(BertModel, part, unused=("pooler.",), add_pooling_layer=False, dtype=dtype)
        _check_vocabulary(folder / "tokenizer", tokenizer, bert)
        return BertPromptEncoder(tokenizer, bert.to(device), settings.text_tokens)
    if name == "CLIPTextModel":
        clip = _load_model(CLIPTextModel, folder / "text_encoder", dtype=dtype).to(device)
        _check_vocabulary(folder / "tokenizer", tokenizer, clip)
        t5_tokenizer = _load_tokenizer(folder / "tokenizer_2")
        t5 = _load_model(T5EncoderModel, folder / "text_encoder_2", dtype=dtype).to(device)
        _check_vocabulary(folder / "tokenizer_2", t5_tokenizer, t5)
        return FluxPromptEncoder(tokenizer, clip, t5_tokenizer, t5, settings.text_tokens)
    raise CheckpointError(f"{folder}: text encoder class {name!r} is not known")


def _class_of(index: dict[str, Any], part: str, folder: Path) -> str:
    entry = index.get(part)
    if not isinstance(entry, list) or len(entry) != 2:
        raise CheckpointError(f"{folder}: model_index.json names no {part}")
    return str(entry[1])
