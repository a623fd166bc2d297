"""Pack what the gpu preset needs into one folder of small files, for a machine without a network.

    python scripts/pack_data.py --data FOLDER --out PACK [--no-text]

FOLDER is that of `train_builtin.py --data`, and PACK can be given there in its place. It holds the pictures that are
used, emojibase's data, their licences, and the text encoder with its smaller vocabulary. With --no-text the last is
left out; where the repository is, `--text-encoder instgenie/builtin` stands in for it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from builtin_recipe.pictures import ASSETS, picture_source
from builtin_recipe.presets import codes_of, data_concepts
from builtin_recipe.state_files import SHARD_BYTES
from builtin_recipe.text_source import MINILM_MISSING, minilm_folder, write_text_encoder
from builtin_recipe.weight_shards import shard_weights

EMOJIBASE = Path("emojibase-data") / "en" / "data.json"
LICENCES = Path(__file__).resolve().parents[1] / "LICENSES"


def pack(data: Path, out: Path, *, text: bool, text_encoder: Path | None = None) -> list[Path]:
    """Write the folder; returns its files.

    Args:
        text: whether to pack the text encoder.
        text_encoder: folder to take it from; None prunes MiniLM.
    Raises:
        FileExistsError: there is such a folder.
        FileNotFoundError: something of it is missing; nothing was written then.
    """
    sources = [picture_source(data / ASSETS, code) for code in codes_of(data_concepts(data))]
    if text and text_encoder is None and minilm_folder() is None:
        raise FileNotFoundError(MINILM_MISSING)
    out.mkdir(parents=True)
    for source in (*sources, data / EMOJIBASE):
        target = out / source.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    (out / LICENCES.name).mkdir()
    for licence in LICENCES.glob("*.txt"):
        shutil.copy(licence, out / LICENCES.name)
    if text:
        write_text_encoder(data, text_encoder, out)
        shard_weights(out, SHARD_BYTES)
    return sorted(path for path in out.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with fluent-emoji-3d/ and emojibase-data/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--no-text", action="store_true", help="leave the text encoder out")
    parser.add_argument("--text-encoder", type=Path, help="folder to take it from instead of MiniLM")
    options = parser.parse_args()
    if options.no_text and options.text_encoder is not None:
        parser.error("--no-text leaves out what --text-encoder names: give one of them")
    try:
        files = pack(options.data, options.out, text=not options.no_text, text_encoder=options.text_encoder)
    except (FileExistsError, FileNotFoundError) as error:
        parser.error(str(error))
    sizes = [path.stat().st_size for path in files]
    print(f"{options.out}: {len(files)} files, {sum(sizes) / 1e6:.1f} MB, the largest {max(sizes) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
