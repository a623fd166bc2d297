"""Report: how close cached edits come to dense ones, and what that costs."""

from __future__ import annotations

from bench.fidelity_settings import FEWEST_CASES
from bench.report_markdown import (
    Content,
    blocks,
    counted,
    number,
    paragraph,
    percent,
    picture,
    source,
    table,
    unbeaten,
)

_COMMAND = "scripts/bench/fidelity.py --cases {cases} --minutes 55 --out scripts/bench/results"


def fidelity(content: Content) -> str:
    """The settings' table, of `fidelity.py`, the cheapest first."""
    about, results = content["about"], content["results"]
    settings, default = results["settings"], results["settings"]["default"]
    kept = all(row["outside_kept"] == row["n"] for row in settings.values())
    rows = [
        [
            name,
            str(row["n"]),
            *(number(row[key]) for key in ("psnr_db", "psnr_p10_db", "psnr_worst_db")),
            number(row["ms_ssim"], 4),
            number(row["gmsd"], 4),
            number(row["seam"], 2),
            percent(row["cost"]),
        ]
        for name, row in sorted(settings.items(), key=lambda item: float(item[1]["cost"]))
    ]
    parts = [
        paragraph(f"""
            How close cached edits come to the dense edit of the same seed: up to {about["cases"]} new scenes in
            caption forms that training never used, {about["steps"]} steps (`.venv/bin/python
            {_COMMAND.format(cases=about["cases"])}`, {source("fidelity.json")}). PSNR
            inside the mask in the median, of nine edits in ten, and at worst; MS-SSIM and GMSD of whole pictures, in
            the median; the seam, which is the step across the mask's border in times of the dense edit's; image tokens
            computed in the mean, of the dense edit's. The default is a halo of 1 and one refresh; rows with `dense`
            compute all tokens in those steps and correct nothing. Costs are of all cases, likeness is of a row's own n
            of them.
        """),
        table(["setting", "n", "PSNR dB", "of 9 in 10", "worst", "MS-SSIM", "GMSD", "seam", "tokens"], rows),
    ]
    if "top1" in default:
        shown, dense = percent(default["top1"]), percent(results["dense_top1"]["default"])
        where = "every byte is the upload's" if kept else "some bytes are not the upload's"
        parts.append(
            paragraph(f"""
                Outside the mask {where} in all of them. {shown} of the default's edits look most like what was asked
                for, among all {default["known"]} things that the model knows, and {dense} of the dense edits of the
                same cases. By the masked share of the picture:
            """)
        )
        names = list(results["by_mask"]["default"])
        parts.append(
            table(
                ["PSNR dB, median", *names],
                [
                    [setting, *(number(by_mask[name]["psnr_db"]) if name in by_mask else "" for name in names)]
                    for setting, by_mask in results["by_mask"].items()
                ],
            )
        )
    return blocks(*parts, picture("likeness by cost, error by step", "fidelity.svg"))


def unbeaten_settings(content: Content) -> str:
    """Of its settings those that a client does best to choose, of `fidelity.py`."""
    about, settings = content["about"], content["results"]["settings"]
    tried = {name: row for name, row in settings.items() if row["n"] >= FEWEST_CASES or name == "default"}
    names = unbeaten(tried, lambda name: tried[name]["psnr_p10_db"], lambda name: tried[name]["cost"])
    rows = [
        [
            name,
            str(row["n"]),
            *(number(row[key]) for key in ("psnr_db", "psnr_p10_db")),
            number(row["ms_ssim"], 4),
            number(row["seam"], 2),
            percent(row["cost"]),
        ]
        for name in sorted({*names, "default"}, key=lambda name: float(tried[name]["cost"]))
        for row in [tried[name]]
    ]
    return blocks(
        paragraph(f"""
            How close cached edits come to the dense edit of the same seed, on {about["cases"]} new scenes in caption
            forms that training never used (`.venv/bin/python {_COMMAND.format(cases=about["cases"])}`,
            {source("fidelity.json")}): PSNR inside the mask in the median and of nine edits in ten, MS-SSIM of the
            whole picture, the seam (the step across the mask's border in times of the dense edit's), image tokens
            computed in the mean, of the dense edit's. Of {counted(len(tried), "setting")} with {FEWEST_CASES} cases or
            more, those that no other one beats in both PSNR of nine in ten and tokens, and the default:
        """),
        table(["setting", "n", "PSNR dB", "of 9 in 10", "MS-SSIM", "seam", "tokens"], rows),
    )
