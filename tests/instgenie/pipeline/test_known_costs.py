"""A model is calibrated once for each way in which it is run; later starts only look how fast the machine is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from instgenie.models.flux import FluxForward
from instgenie.pipeline.cost import BlockFit, BlockKind, CostModel, SegmentShape
from instgenie.pipeline.known_costs import known_costs
from instgenie.pipeline.probe import UsualEdit
from tests.instgenie.tiny_flux import tiny_forward

EDIT = UsualEdit(64, 4)
SHAPES = [SegmentShape(4, 6, 64)]


class CountedMeasuring:
    """Gives costs without measuring any; `edits` were asked for."""

    def __init__(self, r_squared: float = 0.99) -> None:
        self.edits: list[UsualEdit] = []
        self._fit = BlockFit(50.0, 0.5, 1e-3, 1e-2, r_squared, 9)

    def __call__(self, forward: FluxForward, edit: UsualEdit, limit_s: float) -> CostModel:
        self.edits.append(edit)
        kinds: tuple[BlockKind, ...] = ("double", "double", "single", "single")
        return CostModel(kinds, {"double": self._fit, "single": self._fit}, self._fit, {})


def test_a_model_is_calibrated_once(tmp_path: Path) -> None:
    measure = CountedMeasuring()
    first = known_costs(tiny_forward(), "revision", EDIT, tmp_path, measure=measure)
    again = known_costs(tiny_forward(), "revision", EDIT, tmp_path, measure=measure)
    assert measure.edits == [EDIT]
    assert again.to_dict() == first.to_dict()
    assert again.fitted_ms(SHAPES) == first.fitted_ms(SHAPES)
    assert again.blocks_ms(SHAPES) < first.blocks_ms(SHAPES)  # the tiny model's are not so slow


def test_another_model_codec_or_canvas_is_calibrated_for_itself(tmp_path: Path) -> None:
    measure = CountedMeasuring()
    edits = [EDIT, replace(EDIT, codec="int8"), replace(EDIT, decodes_ahead=True), replace(EDIT, canvas_tokens=65)]
    for edit in edits:
        known_costs(tiny_forward(), "revision", edit, tmp_path, measure=measure)
    known_costs(tiny_forward(), "another", EDIT, tmp_path, measure=measure)
    assert measure.edits == [*edits, EDIT]


def test_costs_that_are_not_trusted_are_measured_again(tmp_path: Path) -> None:
    measure = CountedMeasuring(0.5)
    for _ in range(2):
        assert not known_costs(tiny_forward(), "revision", EDIT, tmp_path, measure=measure).is_trusted
    assert len(measure.edits) == 2


def test_without_a_folder_nothing_is_kept() -> None:
    measure = CountedMeasuring()
    for _ in range(2):
        known_costs(tiny_forward(), "revision", EDIT, None, measure=measure)
    assert len(measure.edits) == 2
