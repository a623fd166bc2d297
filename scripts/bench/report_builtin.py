"""Report: what the embedded model draws."""

from __future__ import annotations

from bench.report_markdown import Content, blocks, number, paragraph, percent, source, table

_ROWS = {
    "caption forms of the training": "seen captions",
    "every second case: caption forms never used": "half: unseen captions",
    "same cases, dense edit": "half: unseen captions, dense edit",
    "same cases, asked for another thing": "half: control, another thing's prompt",
    "same cases, empty prompt": "half: control, no prompt",
}
_NOTHING = {
    "empty background, caption forms of the training": "nothing, seen captions",
    "empty background, forms never used": "nothing, unseen captions",
    "the same beside a thing that stays": "nothing beside a thing, unseen captions",
    "a thing to remove, caption forms of the training": "removing a thing, seen captions",
    "a thing to remove, forms never used": "removing a thing, unseen captions",
    "the same, dense edit": "removing a thing, unseen captions, dense edit",
}


def headline(content: Content) -> str:
    """Retrieval among all it knows, of `eval_builtin.py --only headline`."""
    results, cases = content["results"], content["about"]["cases"]
    known = results["retrieval, unseen captions"]
    pictured = results["retrieval among the pictured, unseen captions"]
    rows = [
        [f"among all {known['candidates']} things and coloured shapes that it knows", *_with_interval(known)],
        [f"among the {pictured['candidates']} pictured things", *_with_interval(pictured)],
    ]
    return blocks(
        paragraph(f"""
            The embedded model on {cases} new scenes of the pictured things that it was trained on, asked in caption
            forms that training never used (`.venv/bin/python scripts/eval_builtin.py --cases {cases} --only headline`,
            {source("eval_headline.json")}). Retrieval asks which of the things an edit looks most like; in brackets the
            95 % interval:
        """),
        table(["cached edits", "top-1", "top-5"], rows),
    )


def evaluation(content: Content) -> str:
    """The other rows, of `eval_builtin.py`."""
    results, cases = content["results"], content["about"]["cases"]
    rows = []
    for shown, name in _ROWS.items():
        row = results[f"retrieval among the pictured, {name}"]
        rows.append([shown, percent(row["top1"]), percent(row["top5"]), str(row["n"])])
    shapes, seam = results["shapes"], results["step across the mask's border"]
    fidelity = results["cached against dense, PSNR in mask"]
    nothing = [[shown, *_decibels(results[f"{name}, PSNR in mask"])] for shown, name in _NOTHING.items()]
    return blocks(
        paragraph(f"""
            What the embedded model draws, of {cases} cases; the headline is in the README
            (`.venv/bin/python scripts/eval_builtin.py --cases {cases}`, {source("eval_builtin.json")}), among the
            pictured things:
        """),
        table(["cached edits, unless it says dense", "top-1", "top-5", "n"], rows),
        paragraph(f"""
            Coloured shapes: right colour {percent(shapes["colour"])}, right shape {percent(shapes["shape"])} of
            {shapes["n"]}. Cached against dense edit of the same seed, inside the mask:
            {number(fidelity["median_db"], 0)} dB in the median of {fidelity["n"]}, {number(fidelity["worst_db"])} dB at
            worst. The step across the mask's border is {number(seam["ratio"])} times that of the true scene.
        """),
        paragraph("Where nothing is asked for, PSNR inside the mask to the scene without it:"),
        table(["cached edits, unless it says dense", "median dB", "worst", "n"], nothing),
    )


def _decibels(row: Content) -> list[str]:
    return [number(row["median_db"]), number(row["worst_db"]), str(row["n"])]


def _with_interval(row: Content) -> list[str]:
    return [
        f"{percent(row[top])} ({100 * row[f'{top}_low']:.0f} to {100 * row[f'{top}_high']:.0f})"
        for top in ("top1", "top5")
    ]
