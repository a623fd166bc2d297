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
    results = content["results"]
    rows = []
    for shown, name in _ROWS.items():
        row = _retrieval(results, name)
        rows.append([shown, percent(row["top1"]), percent(row["top5"]), str(row["n"])])
    shapes, nothing = results["shapes"], results["nothing, unseen captions, PSNR in mask"]
    fidelity, seam = results["cached against dense, PSNR in mask"], results["step across the mask's border"]
    return blocks(
        paragraph(f"""
            What the embedded model draws, of {content["about"]["cases"]} cases; the headline is in the README
            (`.venv/bin/python scripts/eval_builtin.py`, {source("eval_builtin.json")}), among the pictured things:
        """),
        table(["cached edits, unless it says dense", "top-1", "top-5", "n"], rows),
        paragraph(f"""
            Coloured shapes: right colour {percent(shapes["colour"])}, right shape {percent(shapes["shape"])} of
            {shapes["n"]}. Empty background, in words that training never used: {number(nothing["median_db"], 0)} dB
            PSNR to the true background in the median of {nothing["n"]}, {number(nothing["worst_db"], 0)} dB at worst.
            Cached against dense edit of the same seed, inside the mask: {number(fidelity["median_db"], 0)} dB in the
            median of {fidelity["n"]}, {number(fidelity["worst_db"])} dB at worst (made before there were refreshes).
            The step across the mask's border is {number(seam["ratio"])} times that of the true scene, dense or cached.
        """),
    )


def _retrieval(results: Content, name: str) -> Content:
    """Among the pictured things: under a name of its own where shapes were ranked, too."""
    return results.get(f"retrieval among the pictured, {name}") or results[f"retrieval, {name}"]


def _with_interval(row: Content) -> list[str]:
    return [
        f"{percent(row[top])} ({100 * row[f'{top}_low']:.0f} to {100 * row[f'{top}_high']:.0f})"
        for top in ("top1", "top5")
    ]
