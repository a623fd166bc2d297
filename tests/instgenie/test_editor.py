"""One edit from request to picture: what it changes, what it keeps, and when it uses records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from instgenie.checkpoint import Checkpoint, load_checkpoint
from instgenie.codecs import CODEC_NAMES
from instgenie.request import EditRequest, EditResult
from tests.instgenie.edits import CountedPrompts, TappedStore, a_request, an_editor, pixels, random_picture, watched


def same(first: EditResult, second: EditResult) -> bool:
    """Whether the pictures are byte-identical."""
    return first.picture.mode == second.picture.mode and np.array_equal(pixels(first.picture), pixels(second.picture))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("feather", [0, 4])
@pytest.mark.parametrize("size", [(64, 64), (201, 333), (97, 41)])
@pytest.mark.parametrize("cached", [False, True])
def test_pixels_outside_the_mask_stay(
    builtin_kind: Checkpoint, size: tuple[int, int], feather: int, mode: str, cached: bool
) -> None:
    picture = random_picture(*size, mode)
    before = picture.tobytes()
    request = a_request(picture, feather=feather, cached=cached, halo=1, steps=1)
    result = an_editor(builtin_kind).edit(request)
    assert (result.picture.mode, result.picture.size) == (mode, size)
    assert picture.tobytes() == before
    assert np.array_equal(pixels(result.picture)[~request.mask], pixels(picture)[~request.mask])
    assert not np.array_equal(pixels(result.picture)[request.mask], pixels(picture)[request.mask])


@pytest.mark.parametrize("size", [(201, 333), (64, 64)])
def test_convolutional_model_keeps_pixels_too(flux_fill_kind: Checkpoint, size: tuple[int, int]) -> None:
    picture = random_picture(*size)
    request = a_request(picture, steps=2, feather=2)
    result = an_editor(flux_fill_kind).edit(request)
    assert np.array_equal(pixels(result.picture)[~request.mask], pixels(picture)[~request.mask])
    assert not np.array_equal(pixels(result.picture), pixels(picture))


@pytest.mark.parametrize("kind", ["builtin_kind", "flux_fill_kind"])
@pytest.mark.parametrize("halo", [0, 2])
def test_mask_of_everything_cached_equals_dense(kind: str, halo: int, request: pytest.FixtureRequest) -> None:
    editor = an_editor(request.getfixturevalue(kind))
    edit = a_request(mask=np.ones((64, 64), bool), halo=halo)
    assert same(editor.edit(edit), editor.dense(edit))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_halo_that_reaches_everything_cached_equals_dense(builtin_kind: Checkpoint, guidance: float) -> None:
    editor = an_editor(builtin_kind)
    request = a_request(halo=8, guidance=guidance)
    cached = editor.edit(request)
    assert cached.timings.tokens_active == cached.timings.tokens_total == 64
    assert (cached.timings.cache, cached.timings.record_ms) == ("off", 0)  # nothing is left to read from a record
    assert editor.store.stats().templates == 0
    assert same(cached, editor.dense(request))


def test_first_edit_records_and_the_second_hits(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    cold, hit = editor.edit(a_request()), editor.edit(a_request())
    assert (cold.timings.cache, hit.timings.cache) == ("cold", "hit")
    assert cold.timings.record_ms > 0
    assert hit.timings.record_ms == 0
    assert cold.timings.dense_steps == hit.timings.dense_steps == 0
    assert same(cold, hit)
    # A record of each of 4 steps and 2 blocks: K and V of 64 tokens, 2 heads of 16 channels, float32.
    assert editor.store.stats().used_bytes == 4 * 2 * 2 * 64 * 2 * 16 * 4


def test_dense_edit_uses_no_records(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    result = editor.dense(a_request())
    assert (result.timings.cache, result.timings.dense_steps) == ("off", 4)
    stats = editor.store.stats()
    assert (stats.templates, stats.hits, stats.misses) == (0, 0, 0)


def other_mask() -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Another place in the same picture."""
    mask = np.zeros((64, 64), bool)
    mask[40:50, 0:9] = True
    return mask


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 5},
        {"prompt": "a green pear"},
        {"mask": other_mask()},
        {"halo": 2},
        {"feather": 3},
        {"strength": 0.5},
        {"guidance": 1.0},
        {"steps": 4},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_edits_of_a_template_share_its_records(builtin_kind: Checkpoint, settings: dict[str, Any]) -> None:
    editor = an_editor(builtin_kind)
    first = editor.edit(a_request())
    other = editor.edit(a_request(**settings))
    assert (other.timings.cache, other.timings.dense_steps) == ("hit", 0)
    if settings != {"steps": 4}:
        assert not same(first, other)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 5},
        {"template_seed": 1},
        {"template_prompt": "a meadow"},
        {"picture": random_picture(seed=1)},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_other_templates_have_their_own_records(builtin_kind: Checkpoint, settings: dict[str, Any]) -> None:
    editor = an_editor(builtin_kind)
    editor.edit(a_request())
    assert editor.edit(a_request(**settings)).timings.cache == "cold"
    assert editor.store.stats().templates == 2
    assert editor.edit(a_request()).timings.cache == "hit"


def test_distilled_guidance_belongs_to_the_template(flux_fill_kind: Checkpoint) -> None:
    editor = an_editor(flux_fill_kind)
    caches = [editor.edit(a_request(guidance=g)).timings.cache for g in (30.0, None, 30, 4.0, 4)]
    assert caches == ["cold", "hit", "hit", "cold", "hit"]


def test_records_of_another_model_are_not_used(
    builtin_kind: Checkpoint, flux_fill_kind: Checkpoint, tiny_builtin: Path
) -> None:
    store = an_editor(builtin_kind).store
    others = [
        builtin_kind,
        replace(builtin_kind, revision="other"),
        load_checkpoint(tiny_builtin, torch.bfloat16, torch.device("cpu")),
        flux_fill_kind,
    ]
    assert [an_editor(other, store).edit(a_request()).timings.cache for other in others] == 4 * ["cold"]
    assert [an_editor(other, store).edit(a_request()).timings.cache for other in others] == 4 * ["hit"]


def test_same_weights_under_another_name_are_the_same_model(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    editor.edit(a_request())
    renamed = replace(builtin_kind, settings=replace(builtin_kind.settings, name="other"))
    assert an_editor(renamed, editor.store).edit(a_request()).timings.cache == "hit"


def test_shape_of_the_grid_belongs_to_the_template(builtin_kind: Checkpoint) -> None:
    """The bytes of these two pictures are the same."""
    editor = an_editor(builtin_kind)
    for size in ((128, 32), (32, 128)):
        picture = Image.new("RGB", size, "teal")
        mask = np.zeros(size[::-1], bool)
        mask[3:9, 3:9] = True
        assert editor.edit(a_request(picture, mask=mask)).timings.cache == "cold"


def test_seed_decides_the_picture(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    for edit in (editor.edit, editor.dense):
        first, again, other = (edit(a_request(seed=seed)) for seed in (1, 1, 2))
        assert same(first, again)
        assert not same(first, other)


def test_prompt_and_guidance_decide_the_picture(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    settings: list[dict[str, Any]] = [{}, {"prompt": "a pear"}, {"guidance": 6.0}, {"guidance": 1.0}]
    results = [editor.dense(a_request(**values)) for values in settings]
    for number, result in enumerate(results):
        assert not any(same(result, other) for other in results[:number])


def test_work_is_that_of_the_masked_tokens(builtin_kind: Checkpoint) -> None:
    checkpoint, forward = watched(builtin_kind)
    editor = an_editor(checkpoint)
    request = a_request(halo=1)  # rows 18..29 and columns 20..39: tokens 2..3 x 2..4, with the halo 1..4 x 1..5
    timings = editor.edit(request).timings
    assert (timings.tokens_active, timings.tokens_total) == (20, 64)
    lengths = [[len(segment.tokens) for segment in segments] for segments, _ in forward.calls]
    assert lengths == 4 * [[64]] + 4 * [[20, 20]]  # the template lane, then both guidance branches
    assert len(timings.step_ms) == 4
    assert timings.encode_ms > 0
    assert timings.denoise_ms >= sum(timings.step_ms) > 0
    assert timings.decode_ms > 0
    forward.calls.clear()
    timings = editor.dense(request).timings
    assert (timings.tokens_active, timings.tokens_total) == (64, 64)
    assert [[len(segment.tokens) for segment in segments] for segments, _ in forward.calls] == 4 * [[64, 64]]


@pytest.mark.parametrize(("prompt", "guidance"), [("a pear", 1.0), ("", 1.0), ("", 3.0), ("a pear", 0.0)])
def test_equal_guidance_branches_are_a_single_pass(builtin_kind: Checkpoint, prompt: str, guidance: float) -> None:
    checkpoint, forward = watched(builtin_kind)
    result = an_editor(checkpoint).dense(a_request(guidance=guidance, prompt=prompt))
    assert [len(segments) for segments, _ in forward.calls] == 4 * [1]
    if guidance == 0:  # the prompt has no weight
        assert same(result, an_editor(builtin_kind).dense(a_request(prompt="")))


@pytest.mark.parametrize(
    ("guidance", "halo", "pays"),
    [(3.0, 0, True), (3.0, 1, True), (3.0, 3, False), (3.0, 9, False), (1.0, 0, False)],
)
def test_when_recording_pays_within_one_edit(builtin_kind: Checkpoint, guidance: float, halo: int, pays: bool) -> None:
    """The promise is held against the tokens that both edits really compute."""
    checkpoint, forward = watched(builtin_kind)
    request = a_request(guidance=guidance, halo=halo)

    def computed(cached: bool) -> int:
        forward.calls.clear()
        an_editor(checkpoint).edit(replace(request, cached=cached))
        return sum(len(segment.tokens) for segments, _ in forward.calls for segment in segments)

    assert an_editor(checkpoint).pays_alone(request) == pays == (computed(True) < computed(False))


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_strength_counts_for_whether_recording_pays(builtin_kind: Checkpoint, strength: float) -> None:
    checkpoint, forward = watched(builtin_kind)
    request = a_request(guidance=3.0, strength=strength)
    counts = []
    for cached in (True, False):
        forward.calls.clear()
        an_editor(checkpoint).edit(replace(request, cached=cached))
        counts.append(sum(len(segment.tokens) for segments, _ in forward.calls for segment in segments))
    assert an_editor(checkpoint).pays_alone(request) == (counts[0] < counts[1])


def test_single_edit_is_cached_where_records_are_there_or_pay(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    request = a_request(guidance=1.0)  # one pass a step: recording never pays alone
    assert not editor.holds(request)
    assert not editor.caching_pays(request)
    assert editor.caching_pays(a_request())  # two passes
    editor.edit(request)
    hits = editor.store.stats().hits
    assert editor.holds(request)
    assert editor.caching_pays(request)
    assert editor.caching_pays(replace(request, prompt="a pear", seed=4))
    assert not editor.caching_pays(replace(request, steps=3))
    assert not editor.caching_pays(replace(request, namespace="ann"))
    assert editor.store.stats().hits == hits


def test_asking_for_records_encodes_nothing(builtin_kind: Checkpoint) -> None:
    prompts = CountedPrompts(builtin_kind.prompts)
    assert not an_editor(replace(builtin_kind, prompts=prompts)).holds(a_request())
    assert not prompts.texts


def test_name_of_a_template_begins_with_its_namespace(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    own, anns = (editor.start(a_request(namespace=namespace)).template_key for namespace in ("", "ann"))
    assert anns == f"ann/{own}"


@pytest.mark.parametrize("device_cache_bytes", [0, 1 << 24])
def test_tier_that_served(builtin_kind: Checkpoint, device_cache_bytes: int) -> None:
    editor = an_editor(builtin_kind, device_cache_bytes=device_cache_bytes)
    requests = [a_request(cached=False), a_request(), a_request(), a_request(steps=3, halo=9)]
    # The cold edit reads back what it recorded, so the device has it for the next.
    expected = [None, None, "device" if device_cache_bytes else "host", None]
    assert [editor.edit(request).timings.tier for request in requests] == expected


def test_closing_closes_the_store(builtin_kind: Checkpoint) -> None:
    class Closing(TappedStore):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    editor = an_editor(builtin_kind, store := Closing(), device_cache_bytes=1 << 24)
    editor.edit(a_request())
    editor.close()
    assert store.closed == 1
    assert editor.shelf.device_tier.used_bytes == 0


def test_mask_may_be_a_view(builtin_kind: Checkpoint) -> None:
    mask = np.zeros((64, 64), bool)
    mask[18:30, 20:40] = True
    flipped = mask[:, ::-1].copy()[:, ::-1]  # the same pixels, backwards in memory
    flipped.flags.writeable = False
    editor = an_editor(builtin_kind)
    assert same(editor.edit(a_request(mask=flipped)), editor.edit(a_request(mask=mask)))


def test_codec_belongs_to_the_template(builtin_kind: Checkpoint) -> None:
    store = an_editor(builtin_kind).store
    for expected in ("cold", "hit"):
        for codec in CODEC_NAMES:
            assert an_editor(builtin_kind, store, codec=codec).edit(a_request()).timings.cache == expected


def test_recording_never_pays_within_one_edit_of_a_distilled_model(flux_fill_kind: Checkpoint) -> None:
    assert not an_editor(flux_fill_kind).pays_alone(a_request())


@pytest.mark.parametrize(("strength", "steps_run"), [(1.0, 4), (0.75, 3), (0.5, 2), (0.1, 1)])
def test_strength_uses_the_records_of_the_last_steps(builtin_kind: Checkpoint, strength: float, steps_run: int) -> None:
    (checkpoint, forward), store = watched(builtin_kind), TappedStore()
    timings = an_editor(checkpoint, store).edit(a_request(strength=strength)).timings
    assert (timings.cache, timings.dense_steps, len(timings.step_ms)) == ("cold", 0, steps_run)
    timesteps = [segments[0].timestep for segments, _ in forward.calls]
    assert timesteps == [1.0, 0.75, 0.5, 0.25, *[1.0, 0.75, 0.5, 0.25][4 - steps_run :]]
    assert store.reads == list(range(4 - steps_run, 4))


def test_strength_starts_from_the_picture(builtin_kind: Checkpoint) -> None:
    checkpoint, forward = watched(builtin_kind)
    an_editor(checkpoint).dense(a_request(strength=0.25, guidance=1.0))
    ((start,), _), *_ = forward.calls
    clean = checkpoint.codec.encode(
        torch.from_numpy(pixels(random_picture()).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    )
    assert (start.tokens[:, :8] - 0.75 * clean[0]).std() == pytest.approx(0.25, abs=0.03)


def test_fill_conditioning_of_edit_and_template(builtin_kind: Checkpoint) -> None:
    """The lane sees the whole picture and an empty mask; the edit sees the picture without its masked pixels."""
    checkpoint, forward = watched(builtin_kind)
    request = a_request()
    an_editor(checkpoint).edit(request)
    lane, edit = forward.calls[0][0][0], forward.calls[-1][0][0]
    codec, picture = checkpoint.codec, torch.from_numpy(pixels(request.picture).copy()).permute(2, 0, 1)[None]
    clean = picture / 127.5 - 1
    assert torch.equal(lane.tokens[:, 8:16], codec.encode(clean)[0])
    assert not lane.tokens[:, 16:].any()
    mask = torch.from_numpy(request.mask)
    grid_mask = mask.view(8, 8, 8, 8).transpose(1, 2).reshape(64, 64)  # [L, 8 * 8] pixels of each token
    active = grid_mask.any(1)
    assert torch.equal(edit.tokens[:, 8:16], codec.encode(clean * ~mask)[0][active])
    assert torch.equal(edit.tokens[:, 16:], grid_mask[active].float())


def test_prompts_and_pictures_are_encoded_once(builtin_kind: Checkpoint) -> None:
    prompts = CountedPrompts(builtin_kind.prompts)
    editor = an_editor(replace(builtin_kind, prompts=prompts))
    for seed in range(3):
        editor.edit(a_request(seed=seed))
    assert sorted(prompts.texts) == ["", "a red apple"]
    editor.edit(a_request(prompt="a pear"))
    assert sorted(prompts.texts) == ["", "a pear", "a red apple"]


def test_request_is_not_changed(builtin_kind: Checkpoint) -> None:
    request: EditRequest = a_request()
    mask, picture = request.mask.copy(), request.picture.copy()
    an_editor(builtin_kind).edit(request)
    assert np.array_equal(request.mask, mask)
    assert np.array_equal(pixels(request.picture), pixels(picture))


def test_every_single_pixel_of_a_scaled_picture_is_edited(builtin_kind: Checkpoint) -> None:
    """78 pixels on a canvas of 72: no column may fall between two canvas pixels."""
    editor = an_editor(builtin_kind)
    picture = random_picture(78, 58)
    for column in range(78):
        mask = np.zeros((58, 78), bool)
        mask[11, column] = True
        request = a_request(picture, mask=mask, steps=1, guidance=1.0)
        assert editor.window(request).canvas_width == 72
        assert editor.edit(request).timings.tokens_active in (1, 2)  # a pixel may lie in two tokens
