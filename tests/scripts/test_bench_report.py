"""The documents' figures are those of the files of results."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from bench import report
from bench.report import BLOCKS, DOCUMENTS, RESULTS, Block, ReportError, folder_of, markdown, written
from bench.report_markdown import linked_from, paragraph, source, table, unbeaten

SHOWN = Block(lambda content: f"It takes {content['ms']} ms.", ("some.json",))
TEXT = "Before.\n\n<!-- figures: some -->\nold\n<!-- end of figures -->\n\nAfter.\n"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "some.json").write_text(json.dumps({"ms": 3}))
    return tmp_path


def test_the_documents_show_the_results() -> None:
    shown = []
    for document in DOCUMENTS:
        text = document.read_text()
        assert written(text, RESULTS, folder=folder_of(document)) == text, "run scripts/bench/report.py"
        shown += re.findall(r"<!-- figures: (.*?) -->", text)
    assert set(shown) == BLOCKS.keys()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.parent.name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", document.read_text())
    assert targets
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("file", sorted({file for block in BLOCKS.values() for file in block.files}))
def test_every_file_tells_where_it_was_made(file: str) -> None:
    environment = json.loads((RESULTS / file).read_text())["environment"]
    assert {"cpu", "cores", "torch", "commit"} <= environment.keys()
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", environment["commit"])


def test_links_are_as_a_document_has_them() -> None:
    assert linked_from(folder_of(DOCUMENTS[0]), source("a.json")) == source("a.json")
    assert linked_from(folder_of(DOCUMENTS[1]), f"{source('a.json')} b") == "[JSON](a.json) b"
    assert linked_from("../results", source("a.json")) == "[JSON](../results/a.json)"


def test_what_another_beats_is_left_out() -> None:
    rows = [(3, 1), (3, 2), (2, 1), (5, 4), (5, 4), (1, 0.5)]
    assert unbeaten(rows, lambda row: row[0], lambda row: row[1]) == [(3, 1), (5, 4), (5, 4), (1, 0.5)]


def test_blocks_are_written_and_what_is_around_them_is_not(results: Path) -> None:
    found = written(TEXT, results, {"some": SHOWN})
    assert found == TEXT.replace("old\n", "\nIt takes 3 ms.\n\n")
    assert written(found, results, {"some": SHOWN}) == found


def test_what_cannot_be_written_says_why(results: Path) -> None:
    with pytest.raises(ReportError, match="there is no block 'some'"):
        written(TEXT, results, {})
    with pytest.raises(ReportError, match="1 blocks begin, 0 end"):
        written(TEXT.replace("end of", "the end of"), results, {"some": SHOWN})
    with pytest.raises(ReportError, match=r"other\.json"):
        written(TEXT, results, {"some": Block(SHOWN.write, ("other.json",))})
    (results / "some.json").write_text("{}")
    with pytest.raises(ReportError, match=r"some\.json: KeyError\('ms'\)"):
        written(TEXT, results, {"some": SHOWN})


def test_check_writes_nothing(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "written", lambda text, *_, **__: text.replace("old", "new"))
    readme = results / "README.md"
    readme.write_text(TEXT)
    given = ["report.py", str(readme), "--results", str(results)]
    monkeypatch.setattr(sys, "argv", [*given, "--check"])
    with pytest.raises(SystemExit, match="the figures are not those of"):
        report.main()
    assert readme.read_text() == TEXT
    monkeypatch.setattr(sys, "argv", given)
    report.main()
    assert readme.read_text() == TEXT.replace("old", "new")
    monkeypatch.setattr(sys, "argv", [*given, "--check"])
    report.main()


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_fits_the_readme(name: str) -> None:
    text = markdown(BLOCKS[name], RESULTS)
    assert not re.search(r"\bnan\b|\binf\b|None", text)
    prose = [line for line in text.splitlines() if not line.startswith("|")]
    assert all(len(line) <= 120 for line in prose)
    assert not any(line.startswith("%") for line in prose)


def test_an_engine_s_row_is_what_was_measured() -> None:
    row = {"ms": 101.7, "speedup": 5.23}
    content = {
        "about": {"rounds": 7},
        "results": {"float32": {"masked 0.098": row}, "bfloat16": {"masked 0.098": row | {"ms": 50.2}}},
    }
    text = BLOCKS["engine"].write(content)
    assert "| ours, 9.8 % of the tokens | 102 | 5.2 | 50 | 5.2 |" in text
    assert "engine.py --rounds 7`, medians" in " ".join(text.split())


def test_fleets_that_do_not_keep_up_are_marked() -> None:
    figures = {"p95": 20.96, "per_second": 59.0, "offered": 63.0, "served": {"recorded": 0.01, "joined": 0.02}}
    runs = [
        {"policy": "finish_time", "load": 0.8, "figures": figures | {"per_second": 62.0}},
        {"policy": "finish_time", "load": 0.95, "figures": figures},
    ]
    text = BLOCKS["simulate 64"].write({"results": runs})
    assert "| `finish_time` (ours) | 21.0, 62/s | 21.0!, 59/s | 3 % |" in text


def test_peers_that_are_faster_stay_in_the_table() -> None:
    row = {
        "model": "embedded",
        "system": "ours",
        "group": "ours",
        "batch": 1,
        "seconds": {"median": 1.7, "p95": 1.8, "n": 2},
        "speedup": 2.4,
        "psnr_db": 42.0,
        "worst_psnr_db": 36.0,
        "computed": None,
    }
    faster = row | {"system": "TaylorSeer", "speedup": 3.0, "computed": 0.35, "psnr_db": None, "worst_psnr_db": None}
    text = BLOCKS["peers"].write({"about": {"steps": 20, "minutes": 28}, "results": [row, faster]})
    assert "| ours | 1.70 | 1.80 | 2.4 | 42.0 | 36.0 |  |" in text
    assert "| TaylorSeer | 1.70 | 1.80 | 3.0 |  |  | 35 % |" in text
    assert "2 held-out cases" in text
    assert "random weights" not in text


def test_the_strongest_peers_are_told_beside_ours() -> None:
    def row(system: str, group: str, seconds: float, psnr_db: float | None, batch: int = 1) -> dict[str, object]:
        return {
            "model": "medium" if psnr_db is None else "embedded",
            "system": system,
            "group": group,
            "batch": batch,
            "seconds": {"median": seconds, "p95": seconds, "n": 2},
            "speedup": 4 / seconds,
            "psnr_db": psnr_db,
            "worst_psnr_db": psnr_db,
            "computed": None,
        }

    results = [
        row("diffusers, one by one", "diffusers", 4, 40),
        row("diffusers, better", "diffusers", 3, 41),
        row("diffusers, static batches of 4", "diffusers", 2.5, 40, batch=4),
        row("quick", "step cache", 1, 38),
        row("slow and worse", "step cache", 2, 30),
        row("no records", "strawman", 0.5, 39),
        row("ours", "ours", 2, 37),
        row("ours, quicker and better", "ours", 1.6, 39),
        row("quick", "step cache", 0.5, None),
    ]
    text = BLOCKS["unbeaten peers"].write({"about": {"steps": 20, "minutes": 28}, "results": results})
    shown = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert shown == [
        "| diffusers, one by one | 4.00 | 1.0 | 40.0 | 40.0 |  |",
        "| diffusers, better | 3.00 | 1.3 | 41.0 | 41.0 |  |",
        "| diffusers, static batches of 4 | 2.50 | 1.6 | 40.0 | 40.0 |  |",
        "| ours | 2.00 | 2.0 | 37.0 | 37.0 |  |",
        "| ours, quicker and better | 1.60 | 2.5 | 39.0 | 39.0 |  |",
        "| quick | 1.00 | 4.0 | 38.0 | 38.0 | 8.0 |",
        "| no records | 0.50 | 8.0 | 39.0 | 39.0 |  |",
    ]


def test_settings_that_nothing_beats_are_told_beside_the_default() -> None:
    def row(psnr_db: float, cost: float, n: int = 40) -> dict[str, float]:
        return {"n": n, "psnr_db": psnr_db + 4, "psnr_p10_db": psnr_db, "ms_ssim": 0.99, "seam": 1, "cost": cost}

    settings = {
        "better": row(42, 0.5),
        "default": row(40, 0.4),
        "cheaper": row(41, 0.3),
        "few cases": row(60, 0.1, n=19),
    }
    text = BLOCKS["unbeaten settings"].write({"about": {"cases": 200}, "results": {"settings": settings}})
    shown = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")][1:]
    assert shown == ["| cheaper", "| default", "| better"]
    assert "Of 3 settings with 20 cases or more" in " ".join(text.split())


def test_a_short_run_s_default_is_told() -> None:
    row = {"n": 9, "psnr_db": 44, "psnr_p10_db": 40, "ms_ssim": 0.99, "seam": 1, "cost": 0.4}
    text = BLOCKS["unbeaten settings"].write({"about": {"cases": 9}, "results": {"settings": {"default": row}}})
    assert "| default | 9 | 44.0 | 40.0 | 0.9900 | 1.00 | 40 % |" in text


def test_figures_stay_with_their_signs() -> None:
    text = paragraph(" ".join(["word"] * 23) + " 1234 22 % of them")
    assert [len(line) <= 120 for line in text.splitlines()] == [True, True]
    assert "22 %" in text.splitlines()[1]


def test_a_table_is_whole() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
    for wrong in (["1"], ["1", "2|3"]):
        with pytest.raises(AssertionError):
            table(["a", "b"], [wrong])
