"""Write the sheet of the concepts' pictures that the evaluation and the samples use.

    python scripts/make_atlas.py --data FOLDER [--out scripts/builtin_recipe/concepts.webp]

FOLDER holds npm's unpacked `fluent-emoji-3d`, as for `train_builtin.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from builtin_recipe.pictures import ASSETS, ATLAS, load_pictures, save_atlas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with fluent-emoji-3d/")
    parser.add_argument("--out", type=Path, default=ATLAS)
    options = parser.parse_args()
    pictures = load_pictures(options.data / ASSETS)
    save_atlas(pictures, options.out)
    print(f"{options.out}: {len(pictures)} pictures, {options.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
