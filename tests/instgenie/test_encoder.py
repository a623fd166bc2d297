"""From requests to tensors: what can be told without the model is what the model then finds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from instgenie.checkpoint import Checkpoint
from instgenie.correction import unused_refreshes
from instgenie.encoder import Encoder
from instgenie.warm_request import WarmRequest
from tests.instgenie.batches import Rider, riders
from tests.instgenie.edits import CountedPrompts, a_request, an_editor, random_picture


@pytest.mark.parametrize("kind", ["builtin_kind", "flux_fill_kind"])
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rider=riders())
def test_what_is_told_of_an_edit_ahead_holds(kind: str, rider: Rider, request: pytest.FixtureRequest) -> None:
    editor = an_editor(request.getfixturevalue(kind))
    prepared = editor.prepare(rider.request)
    with editor.encode(prepared) as edit:
        assert prepared.key == edit.template_key == edit.template.key
        assert (prepared.steps, prepared.passes) == (edit.steps, edit.passes)
        assert prepared.is_cached == edit.is_cached
        assert prepared.index.num_active == edit.state.index.num_active
        own_steps = [step + edit.steps - edit.template.steps for step in edit.record_steps]
        left_out = prepared.extrapolated_steps | unused_refreshes(
            prepared.refresh_steps, edit.steps, prepared.extrapolated_steps
        )
        assert own_steps == [step for step in range(edit.steps) if step not in left_out]


def test_templates_are_told_apart_by_what_makes_their_records(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)

    def key(**changes: Any) -> str:
        return editor.prepare(a_request(**changes)).key

    others: list[dict[str, Any]] = [
        {"picture": random_picture(seed=1)},
        {"steps": 7},
        {"template_seed": 1},
        {"template_prompt": "a pear"},
    ]
    others.append({"namespace": "ann"})
    assert len({key(), *(key(**changes) for changes in others)}) == 1 + len(others)
    assert {key(prompt="x"), key(seed=9), key(guidance=1.0), key(strength=0.5), key(halo=2)} == {key()}
    for other in (an_editor(builtin_kind, codec="int8"), an_editor(builtin_kind, drift=0.1)):
        assert other.prepare(a_request()).key != key()


def test_warm_up_makes_the_template_of_the_edit(builtin_kind: Checkpoint) -> None:
    encoder = Encoder(builtin_kind, "raw", 0.0)
    warm = WarmRequest(picture=random_picture())
    (window,) = encoder.windows(warm)
    template = encoder.template(warm, window)
    _, expected = encoder.encode(encoder.prepare(a_request()))
    assert template.key == expected.key
    assert torch.equal(template.trajectory.noise, expected.trajectory.noise)
    assert torch.equal(template.trajectory.clean, expected.trajectory.clean)
    assert (template.sigmas, template.grid) == (expected.sigmas, expected.grid)


def test_prompts_and_pictures_are_encoded_once(builtin_kind: Checkpoint) -> None:
    prompts = CountedPrompts(builtin_kind.prompts)
    encoder = Encoder(replace(builtin_kind, prompts=prompts), "raw", 0.0)
    states = [encoder.encode(encoder.prepare(a_request()))[0] for _ in "ab"]
    assert sorted(prompts.texts) == ["", "a red apple"]
    assert states[0].trajectory.clean is states[1].trajectory.clean
