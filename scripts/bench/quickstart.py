"""Time of the README's first edit: the whole command, and its phases inside one process.

    python scripts/bench/quickstart.py [--rounds 3] [--json OUT]

A process that does not count comes first, so that the system has the files in its memory. Then every round starts
fresh ones: `instgenie edit` as a user runs it for the first time; `instgenie edit --cache on`, which records the
template; the first one again, which finds the records on disk; and one that imports, loads and edits step by step,
twice, so that the second edit finds its template recorded. Medians of the rounds are given.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

PROMPT = "a watermelon"
SAMPLE = "table"
COMMAND = "from instgenie_server.cli import main; main()"


def whole_command_ms(template: Path, mask: Path, folder: Path, *options: str) -> float:
    """Milliseconds of `instgenie edit`, from the start of its process to the end; its records are in the folder."""
    arguments = ("edit", str(template), "--mask", str(mask), "--prompt", PROMPT, "-o", str(folder / "edited.png"))
    command = (sys.executable, "-c", COMMAND, *arguments, *options)
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"XDG_CACHE_HOME": str(folder)})
    return 1000 * (time.perf_counter() - started)


def phases_in_fresh_process() -> dict[str, float]:
    """What `phases` gives in a process that has imported nothing yet."""
    command = (sys.executable, str(Path(__file__)), "--phases")
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(ran.stdout)
    return found


def phases() -> dict[str, float]:
    """Milliseconds of each phase of the edit in this process, its imports among them."""
    found: dict[str, float] = {}
    started = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal started
        now = time.perf_counter()
        found[name] = 1000 * (now - started)
        started = now

    from PIL import Image

    from instgenie.checkpoint import BUILTIN, load_checkpoint
    from instgenie.compute_dtype import dtype_of
    from instgenie.editor import Editor
    from instgenie.free_memory import available_memory_bytes
    from instgenie.host import compute_device, quiet_libraries
    from instgenie.mask import read_mask
    from instgenie.request import EditRequest
    from instgenie_cache import MemoryStore

    quiet_libraries()
    lap("import_ms")
    device = compute_device()
    dtype = dtype_of("auto", device)
    lap("measure_dtype_ms")
    editor = Editor(load_checkpoint(BUILTIN, dtype, device), MemoryStore(available_memory_bytes() // 2))
    lap("load_ms")
    samples = BUILTIN / "samples"
    picture = Image.open(samples / f"{SAMPLE}_template.png").convert("RGB")
    mask = read_mask(Image.open(samples / f"{SAMPLE}_mask.png"), picture.size, "luminance")
    request = EditRequest(picture=picture, mask=mask, prompt=PROMPT)
    lap("read_pictures_ms")
    for name, edit in (("first", editor.edit), ("recorded", editor.edit), ("dense", editor.dense)):
        timings = edit(request).timings
        lap(f"{name}_edit_ms")
        parts = ("encode_ms", "record_ms", "denoise_ms", "decode_ms")
        found |= {f"{name}_edit_{part}": getattr(timings, part) for part in parts}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--phases", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phases:  # before anything that takes time is imported
        print(json.dumps(phases()))
        return
    from bench.environment import environment
    from instgenie.checkpoint import BUILTIN

    template, mask = (BUILTIN / "samples" / f"{SAMPLE}_{part}.png" for part in ("template", "mask"))
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        whole_command_ms(template, mask, Path(folder))
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            commands = {
                "whole_command_ms": whole_command_ms(template, mask, Path(folder)),
                "command_that_records_ms": whole_command_ms(template, mask, Path(folder), "--cache", "on"),
                "command_with_records_ms": whole_command_ms(template, mask, Path(folder)),
            }
        rounds.append(commands | phases_in_fresh_process())
    results = {name: median(figures[name] for figures in rounds) for name in rounds[0]}
    for name, ms in results.items():
        print(f"{name.removesuffix('_ms'):28}{ms:10.0f} ms")
    if options.json:
        about = {"prompt": PROMPT, "sample": SAMPLE, "rounds": options.rounds}
        content = {"about": about, "environment": environment(), "results": results}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
