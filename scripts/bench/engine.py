"""Time of one denoising step: diffusers' dense forward, ours, and ours with only the masked tokens.

A Flux transformer of about 70M parameters with random weights and 1,024 image tokens by default (speed does not
depend on the values). Rows are timed in turn, round after round, so that a noisy machine hits all of them alike;
ratios are taken within a round and their median is given.

    python scripts/bench/engine.py [--rounds 9] [--dtype float32 bfloat16] [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from diffusers import FluxTransformer2DModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.environment import environment
from instgenie.conditioning import image_ids
from instgenie.models.flux import FluxForward
from instgenie.models.segment import Segment
from instgenie.records import RecordForm, StepContext, StepRecorder
from instgenie_cache import MemoryStore

MASK_SHARES = (0.05, 0.10, 0.20, 0.35, 0.50)
CHANNELS, TEXT_TOKENS, TEXT_DIM = 64, 32, 512


def medium_flux(dtype: torch.dtype) -> FluxTransformer2DModel:
    """4 double-stream and 8 single-stream blocks of 8 heads x 64: 71M parameters."""
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        in_channels=CHANNELS,
        num_layers=4,
        num_single_layers=8,
        attention_head_dim=64,
        num_attention_heads=8,
        joint_attention_dim=TEXT_DIM,
        pooled_projection_dim=TEXT_DIM,
        axes_dims_rope=(16, 24, 24),
    )
    return model.to(dtype)


def square_positions(side: int, share: float) -> torch.Tensor:
    """Raster positions of a centred square that covers about `share` of a side x side grid."""
    extent = max(1, round(side * share**0.5))
    start = (side - extent) // 2
    rows = torch.arange(start, start + extent)
    return (rows[:, None] * side + rows[None]).flatten()


def cases(model: FluxTransformer2DModel, side: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    forward = FluxForward(model)
    device, dtype = forward.device, forward.dtype
    tokens = torch.randn(side * side, CHANNELS, device=device, dtype=dtype)
    text = torch.randn(TEXT_TOKENS, TEXT_DIM, device=device, dtype=dtype)
    pooled = torch.randn(TEXT_DIM, device=device, dtype=dtype)
    ids = image_ids((side, side), device)
    form = RecordForm(dtype, side * side, forward.num_heads, forward.head_dim, forward.num_blocks)
    store = MemoryStore(form.size(1).num_bytes)
    with store.create("template", form.size(1)) as writer:
        forward([Segment(tokens, ids, text, pooled, 0.5, recorder=StepRecorder(writer, 0))])
        writer.commit()
    lease = store.lease("template")
    assert lease is not None

    def diffusers_dense() -> object:
        with torch.inference_mode():
            return model(
                hidden_states=tokens[None],
                encoder_hidden_states=text[None],
                pooled_projections=pooled[None],
                timestep=torch.tensor([0.5], device=device),
                img_ids=ids,
                txt_ids=torch.zeros(TEXT_TOKENS, 3, device=device),
                return_dict=False,
            )

    named: dict[str, Callable[[], object]] = {
        "diffusers dense": diffusers_dense,
        "dense": lambda: forward([Segment(tokens, ids, text, pooled, 0.5)]),
    }
    for share in MASK_SHARES:
        active = square_positions(side, share)
        inactive = torch.ones(side * side, dtype=torch.bool)
        inactive[active] = False

        def masked(active: torch.Tensor = active, inactive: torch.Tensor = inactive) -> object:
            rest = inactive.nonzero()[:, 0].to(device)
            context = StepContext.open(lease, 0, form, rest)
            return forward([Segment(tokens[active], ids[active], text, pooled, 0.5, context=context)])

        named[f"masked {len(active) / side**2:.3f}"] = masked
    return named


def measure(named: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each case and its median speed-up over the diffusers forward of the same round."""
    times: dict[str, list[float]] = {name: [] for name in named}
    for round_ in range(rounds + 1):
        for name, run in named.items():
            started = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_:
                times[name].append(1000 * (time.perf_counter() - started))
    dense = times["diffusers dense"]
    return {
        name: {"ms": median(ms), "speedup": median(d / m for d, m in zip(dense, ms, strict=True))}
        for name, ms in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--side", type=int, default=32, help="tokens on a side of the square grid")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    for name in options.dtype:
        model = medium_flux(getattr(torch, name)).to(options.device)
        results[name] = measure(cases(model, options.side), options.rounds)
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        threads = torch.get_num_threads()
        print(f"{name}, {parameters:.0f}M parameters, {options.side**2} image tokens, {threads} threads")
        print(f"{'':18}{'ms':>10}{'speed-up':>10}")
        for row, figures in results[name].items():
            print(f"{row:18}{figures['ms']:10.1f}{figures['speedup']:10.2f}")
    if options.json:
        about = {"device": options.device, "rounds": options.rounds, "image_tokens": options.side**2}
        content = {"about": about, "environment": environment(), "results": results}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
