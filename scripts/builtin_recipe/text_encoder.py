"""The embedded model's text encoder: MiniLM with a pruned vocabulary, saved as transformers' BertModel."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

MAX_POSITIONS = 64


def kept_tokens(vocabulary: dict[str, int], texts: Iterable[str], common: int) -> list[str]:
    """Tokens to keep, in their old order: specials, letters, the `common` most frequent words, words of `texts`."""
    wanted = {word for text in texts for word in text.lower().replace("-", " ").split()}
    kept, words = [], 0
    for token, _ in sorted(vocabulary.items(), key=lambda item: item[1]):
        piece = token.removeprefix("##")
        is_special = token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
        if is_special or token in wanted or (piece.isascii() and len(piece) == 1):
            kept.append(token)
        elif piece.isascii() and piece.isalpha() and words < common:
            kept.append(token)
            words += 1
    return kept


def prune(source: Path, target: Path, texts: Iterable[str], common: int = 6000) -> int:
    """Write text_encoder/ and tokenizer/ below `target` from MiniLM's folder; returns the vocabulary size."""
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    kept = kept_tokens(vocabulary, texts, common)
    new_ids = {token: i for i, token in enumerate(kept)}
    tokenizer["model"]["vocab"] = new_ids
    for added in tokenizer["added_tokens"]:
        added["id"] = new_ids[added["content"]]
    for special in tokenizer["post_processor"].get("special_tokens", {}).values():
        special["ids"] = [new_ids[token] for token in special["tokens"]]
    for pair in ("sep", "cls"):
        if pair in tokenizer["post_processor"]:
            tokenizer["post_processor"][pair][1] = new_ids[tokenizer["post_processor"][pair][0]]
    tokenizer["truncation"] = tokenizer["padding"] = None
    (target / "tokenizer").mkdir(parents=True, exist_ok=True)
    (target / "tokenizer" / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=True))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_POSITIONS}
    settings |= {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    (target / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))

    weights = load_file(source / "model.safetensors")
    weights = {name: w for name, w in weights.items() if not name.startswith("pooler.") and "position_ids" not in name}
    words = weights["embeddings.word_embeddings.weight"]
    weights["embeddings.word_embeddings.weight"] = words[torch.tensor([vocabulary[token] for token in kept])]
    positions = weights["embeddings.position_embeddings.weight"]
    weights["embeddings.position_embeddings.weight"] = positions[:MAX_POSITIONS]
    (target / "text_encoder").mkdir(parents=True, exist_ok=True)
    halves = {name: w.to(torch.float16).contiguous() for name, w in weights.items()}
    save_file(halves, target / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    for unused in ("_name_or_path", "transformers_version", "gradient_checkpointing"):
        config.pop(unused, None)
    config |= {"vocab_size": len(kept), "max_position_embeddings": MAX_POSITIONS, "dtype": "float16"}
    (target / "text_encoder" / "config.json").write_text(json.dumps(config, indent=1))
    return len(kept)
