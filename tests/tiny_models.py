"""Tiny random models in the diffusers folder format: the embedded model's kind, and the Flux Fill kind.

They are made from fixed seeds, so that a test sees the same weights every time. Their edits are noise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from instgenie.models.patch_autoencoder import PatchAutoencoder

TEXT_DIM = 32
BERT_TOKENS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
CLIP_TOKENS = {"unk_token": "<unk>", "bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>"}
T5_TOKENS = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def save_tiny_builtin(folder: Path) -> Path:
    """Write a model of the embedded model's kind: patch autoencoder, BERT text, classifier-free guidance.

    A token is 8x8 pixels and 8 channels; the canvas is 64 tokens, so pictures of 64x64 pixels are not scaled.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        autoencoder = PatchAutoencoder(patch_size=8, latent_channels=8)
        autoencoder.fit(_smooth_pictures(count=8, size=64))
        autoencoder.save_pretrained(folder / "vae")
        _tiny_transformer(latent_channels=8, patch=8, guidance_embeds=False).save_pretrained(folder / "transformer")
        tokenizer = _save_tokenizer(folder / "tokenizer", BERT_TOKENS, "[CLS] $A [SEP]")
        bert = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_DIM,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
        BertModel(bert, add_pooling_layer=False).save_pretrained(folder / "text_encoder")
    FlowMatchEulerDiscreteScheduler(shift=1.0).save_pretrained(folder / "scheduler")
    parts = {
        "_class_name": "InstGenIEFillPipeline",
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["instgenie", "PatchAutoencoder"],
        "text_encoder": ["transformers", "BertModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    _write_json(folder / "model_index.json", parts)
    settings: dict[str, object] = {"name": "tiny-builtin", "steps": 4, "guidance": 3.0, "canvas_tokens": 64}
    settings |= {"text_tokens": 8, "draws": ["red apple", "star"]}
    _write_json(folder / "instgenie.json", settings)
    return folder


def save_tiny_flux_fill(folder: Path) -> Path:
    """Write a model of Flux Fill's kind: convolutional autoencoder, CLIP and T5 text, distilled guidance.

    A token is 16x16 pixels and 16 channels; the canvas is 16 tokens, so pictures of 64x64 pixels are not scaled.
    `diffusers.FluxFillPipeline` loads the folder too.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        autoencoder = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(4, 4, 4, 4),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=2,
            sample_size=64,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        autoencoder.save_pretrained(folder / "vae")
        _tiny_transformer(latent_channels=16, patch=16, guidance_embeds=True).save_pretrained(folder / "transformer")
        _save_flux_text(folder)
    FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_image_seq_len=256,
        max_image_seq_len=4096,
        base_shift=0.5,
        max_shift=1.15,
    ).save_pretrained(folder / "scheduler")
    parts = {
        "_class_name": "FluxFillPipeline",
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "tokenizer_2": ["transformers", "PreTrainedTokenizerFast"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    _write_json(folder / "model_index.json", parts)
    settings = {"name": "tiny-flux-fill", "steps": 4, "guidance": 30.0, "canvas_tokens": 16, "text_tokens": 8}
    _write_json(folder / "instgenie.json", settings)
    return folder


def _tiny_transformer(latent_channels: int, patch: int, *, guidance_embeds: bool) -> FluxTransformer2DModel:
    """One double and one single block of 2 heads; its input is noisy latents, the masked picture's, the mask."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=2 * latent_channels + patch * patch,
        out_channels=latent_channels,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_DIM,
        pooled_projection_dim=TEXT_DIM,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )


def _save_flux_text(folder: Path) -> None:
    tokenizer = _save_tokenizer(folder / "tokenizer", CLIP_TOKENS, "<start> $A <end>")
    clip = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_DIM,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    CLIPTextModel(clip).save_pretrained(folder / "text_encoder")
    tokenizer = _save_tokenizer(folder / "tokenizer_2", T5_TOKENS, "$A </s>")
    t5 = T5Config(vocab_size=len(tokenizer), d_model=TEXT_DIM, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    T5EncoderModel(t5).save_pretrained(folder / "text_encoder_2")


def _save_tokenizer(folder: Path, special: dict[str, str], template: str) -> PreTrainedTokenizerFast:
    """A tokenizer that spells words letter by letter."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,-"
    words = [*dict.fromkeys(special.values()), *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=special["unk_token"]))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    used = [word for word in template.split() if word in vocabulary]
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[(w, vocabulary[w]) for w in used])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special)
    fast.save_pretrained(folder)
    return fast


def _smooth_pictures(count: int, size: int) -> torch.Tensor:
    """[B, 3, S, S] random pictures in -1..1 with some structure to fit to."""
    coarse = torch.rand(count, 3, size // 8, size // 8) * 2 - 1
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return (smooth + 0.1 * torch.randn_like(smooth)).clamp(-1, 1)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
