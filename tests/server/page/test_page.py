"""The web page in a real browser: what is painted is edited, and nothing else; what goes wrong is told."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import Route, expect

from instgenie_server.access.key_file import KeyFile
from instgenie_server.access.keys import ScryptCost
from instgenie_server.local_engine import open_local_replica
from instgenie_server.settings import AuthSettings, CacheSettings, EngineSettings, Settings
from tests.server.live_server import live_server
from tests.server.page.conftest import Open, Pixels, Visit

SAMPLES = Path(__file__).parents[3] / "instgenie" / "builtin" / "samples"


def pixels_of(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def changed(before: Pixels, after: Pixels) -> npt.NDArray[np.bool_]:
    """[H, W]."""
    assert before.shape == after.shape
    touched: npt.NDArray[np.bool_] = (before != after).any(-1)
    return touched


def test_a_sample_is_edited_in_its_mask(visit: Visit) -> None:
    visit.page.get_by_role("button", name="Sky").click()
    visit.waits_for("#model", "tiny-builtin, float32 on cpu")
    expect(visit.page.get_by_label("Prompt")).to_have_value("the sun")
    visit.edit()
    after = visit.result()
    with Image.open(SAMPLES / "sky_mask.png") as mask:
        masked = np.asarray(mask.convert("L")) > 127
    touched = changed(pixels_of(SAMPLES / "sky_template.png"), after)
    assert touched[masked].mean() > 0.5
    assert not touched[~masked].any()


def test_the_box_that_is_drawn_is_what_changes(visit: Visit, picture_path: Path) -> None:
    edit = visit.page.get_by_role("button", name="Edit", exact=True)
    expect(edit).to_be_disabled()
    visit.picture(picture_path)
    expect(edit).to_be_disabled()
    visit.tool("Box")
    visit.drag((0.25, 0.25), (0.75, 0.5))
    visit.edit()
    touched = changed(pixels_of(picture_path), visit.result())
    assert touched[18:30, 26:70].mean() > 0.9
    outside = np.ones_like(touched)
    outside[15:33, 23:73] = False
    assert not touched[outside].any()
    # The result becomes the next picture, without a mask.
    visit.page.get_by_role("button", name="Edit this result").click()
    expect(visit.page.locator("#result")).to_be_hidden()
    expect(edit).to_be_disabled()


def test_brush_eraser_and_undo(visit: Visit, picture_path: Path) -> None:
    visit.picture(picture_path)
    visit.drag((0.1, 0.5), (0.9, 0.5))
    visit.tool("Eraser")
    visit.page.get_by_label("Width of the brush").fill("40")
    visit.drag((0.5, 0.1), (0.5, 0.9))
    visit.drag((0.1, 0.5), (0.9, 0.5))
    visit.page.get_by_role("button", name="Undo").click()
    visit.edit()
    touched = changed(pixels_of(picture_path), visit.result())
    assert touched[31:33, 14:30].mean() > 0.9
    assert touched[31:33, 66:82].mean() > 0.9
    assert not touched[:, 42:54].any()  # erased
    assert not touched[:20].any()
    visit.page.get_by_role("button", name="Clear").click()
    expect(visit.page.get_by_role("button", name="Edit", exact=True)).to_be_disabled()


def test_a_mask_is_painted_by_keyboard_alone(visit: Visit, picture_path: Path) -> None:
    visit.picture(picture_path)
    visit.tool("Box")
    visit.page.locator("#mask").focus()
    for key in (" ", *["ArrowRight"] * 4, *["ArrowDown"] * 4, " "):
        visit.page.keyboard.press(key)
    visit.edit()
    touched = changed(pixels_of(picture_path), visit.result())
    rows, columns = np.flatnonzero(touched.any(1)), np.flatnonzero(touched.any(0))
    assert abs(rows[0] - 32) <= 1
    assert abs(columns[0] - 48) <= 1
    assert 8 < len(rows) < 32
    assert 8 < len(columns) < 48
    visit.page.locator("#mask").focus()
    visit.page.keyboard.press("Control+z")
    expect(visit.page.get_by_role("button", name="Edit", exact=True)).to_be_disabled()


def test_the_divider_shows_before_and_after(visit: Visit, picture_path: Path) -> None:
    visit.picture(picture_path)
    visit.drag((0.3, 0.5), (0.7, 0.5))
    visit.edit()
    visit.result()
    after = visit.page.locator("#after")
    expect(after).to_have_css("clip-path", "inset(0px 0px 0px 0%)")
    visit.page.get_by_label("Before and after").fill("60")
    expect(after).to_have_css("clip-path", "inset(0px 0px 0px 60%)")


def test_settings_reach_the_edit(visit: Visit, picture_path: Path) -> None:
    visit.picture(picture_path)
    visit.drag((0.3, 0.5), (0.7, 0.5))
    visit.page.get_by_text("Settings").click()
    visit.page.get_by_label("Seed").fill("11")
    visit.page.get_by_label("Fidelity").select_option("exact")
    results = []
    for _ in range(2):
        visit.edit()
        results.append(visit.result())
        visit.waits_for("#status", r"100 % of the tokens, no records, seed 11")
    assert np.array_equal(results[0], results[1])
    visit.page.get_by_label("Steps").fill("7")
    visit.edit()
    visit.result()
    edits = visit.page.evaluate("fetch('v1/edits?limit=3').then(reply => reply.json())")["data"]
    assert [(edit["steps"], edit["seed"]) for edit in edits] == [(7, 11), (4, 11), (4, 11)]


def begin_a_long_edit(visit: Visit, picture_path: Path) -> None:
    """Of so many steps that a test can do something while it runs."""
    visit.picture(picture_path)
    visit.drag((0.3, 0.5), (0.7, 0.5))
    visit.page.get_by_text("Settings").click()
    visit.page.get_by_label("Steps").fill("1000")
    visit.edit()
    visit.waits_for("#step", r"step \d+ of 1000")


def test_an_edit_is_cancelled(visit: Visit, picture_path: Path) -> None:
    begin_a_long_edit(visit, picture_path)
    visit.page.get_by_role("button", name="Cancel").click()
    visit.waits_for("#status", "cancelled")
    expect(visit.page.get_by_role("button", name="Edit", exact=True)).to_be_enabled()
    expect(visit.page.locator("#result")).to_be_hidden()


CUT_EVENTS = """async () => {
    const step = 'id: 1\\nevent: step\\ndata: {"step": 1, "note": "ä€"}\\n\\n: alive\\n\\n';
    const text = step + 'id: 2\\nevent: step\\ndata: {"step": 2}\\n\\n';
    const end = 'id: 9\\nevent: done\\ndata: {"step": 3}\\n\\n';
    const lasts = [];
    window.fetch = async (path, { headers }) => {
        lasts.push(headers.get("Last-Event-ID"));
        if (lasts.length === 2) return new Response('{}', { status: 502, headers: { "retry-after": "0.01" } });
        const bytes = new TextEncoder().encode(lasts.length === 1 ? text + end.slice(0, 20) : end);
        let at = 0;
        return new Response(new ReadableStream({
            pull(stream) {
                if (at < bytes.length) stream.enqueue(bytes.slice(at, at += 1));
                else if (lasts.length === 1) stream.error(new Error("cut"));
                else stream.close();
            },
        }));
    };
    const { events } = await import("/page/server.js");
    const seen = [];
    const abort = new AbortController();
    for await (const event of events("x", { say: () => {}, signal: abort.signal })) seen.push(event);
    return { lasts, seen };
}"""


def test_events_survive_cuts_anywhere(visit: Visit) -> None:
    """The stream comes byte by byte, is cut within an event, refused once, and goes on behind what was seen."""
    found = visit.page.evaluate(CUT_EVENTS)
    assert [(event["kind"], event["id"], event["data"]["step"]) for event in found["seen"]] == [
        ("step", "1", 1),
        ("step", "2", 2),
        ("done", "9", 3),
    ]
    assert found["seen"][0]["data"]["note"] == "ä€"
    assert found["lasts"] == [None, "2", "2"]


def test_a_refused_edit_is_sent_again_as_the_same_one(visiting: Open, server: str, picture_path: Path) -> None:
    keys: list[str] = []

    def refuses_once(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) == 1:
            route.fulfill(status=429, headers={"retry-after": "0.01"}, body="{}")
        else:
            route.continue_()

    with visiting(server, refused=frozenset({429})) as visit:
        visit.page.route("**/v1/edits", refuses_once)
        visit.picture(picture_path)
        visit.drag((0.3, 0.5), (0.7, 0.5))
        visit.edit()
        assert changed(pixels_of(picture_path), visit.result()).any()
    assert len(keys) == 2
    assert len(set(keys)) == 1


@pytest.mark.timeout(240)
def test_an_edit_is_found_again_after_a_reload(visit: Visit, picture_path: Path) -> None:
    begin_a_long_edit(visit, picture_path)
    visit.page.reload()
    assert changed(pixels_of(picture_path), visit.result(wait_ms=150_000)).any()
    expect(visit.page.get_by_label("Before and after")).to_be_hidden()


def test_the_last_result_stays_until_there_is_another(visiting: Open, server: str, picture_path: Path) -> None:
    with visiting(server, refused=frozenset({400})) as visit:
        visit.picture(picture_path)
        visit.drag((0.3, 0.5), (0.7, 0.5))
        visit.edit()
        visit.result()
        visit.page.route("**/v1/edits", lambda route: route.fulfill(status=400, body="{}"))
        visit.edit()
        visit.waits_for("#error", "the server answered 400")
        expect(visit.page.locator("#result")).to_be_visible()


LOADS_IT_AGAIN = """async () => {
    for (const part of ["template", "mask"]) {
        const image = new Image();
        image.src = URL.createObjectURL(await (await fetch(`page/table_${part}.png`)).blob());
        await image.decode();
    }
}"""


def test_the_sample_that_was_chosen_last_stays(visit: Visit) -> None:
    """Also if an earlier one comes later."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    visit.page.route("**/page/table_*.png", hold)
    with visit.page.expect_request("**/page/table_mask.png"):
        visit.page.get_by_role("button", name="Table").click()
    visit.page.get_by_role("button", name="Sky").click()
    expect(visit.page.get_by_label("Prompt")).to_have_value("the sun")
    shown = visit.page.locator("#picture").get_attribute("src")
    with visit.page.expect_response("**/page/table_mask.png"), visit.page.expect_response("**/page/table_template.png"):
        for route in held:
            route.continue_()
    visit.page.unroute("**/page/table_*.png")
    visit.page.evaluate(LOADS_IT_AGAIN)  # what the page does with the replies is done before this is
    assert visit.page.locator("#picture").get_attribute("src") == shown
    expect(visit.page.get_by_label("Prompt")).to_have_value("the sun")
    expect(visit.page.locator("#error")).to_be_empty()


@pytest.mark.parametrize(("width", "height"), [(32, 32), (90, 160), (2500, 1000)])
def test_pictures_keep_their_shape(visit: Visit, tmp_path: Path, width: int, height: int) -> None:
    """Small ones are shown large enough to be painted on."""
    Image.new("RGB", (width, height), "teal").save(tmp_path / "plain.png")
    visit.picture(tmp_path / "plain.png")
    shown, mask = (visit.page.locator(name).bounding_box() for name in ("#picture", "#mask"))
    assert shown is not None
    assert shown == mask
    assert shown["width"] / shown["height"] == pytest.approx(width / height, rel=0.02)
    assert max(shown["width"], shown["height"]) >= 380


def test_a_mask_of_nothing_and_a_setting_that_is_hidden_are_told(visit: Visit, picture_path: Path) -> None:
    visit.picture(picture_path)
    visit.drag((0.4, 0.5), (0.6, 0.5))
    visit.tool("Eraser")
    visit.page.get_by_label("Width of the brush").fill("40")
    visit.drag((0.2, 0.5), (0.8, 0.5))
    visit.edit()
    visit.waits_for("#error", "nothing is masked")
    visit.page.get_by_role("button", name="Undo").click()
    visit.page.locator("#steps").evaluate("input => { input.value = 0; }")
    visit.edit()
    expect(visit.page.get_by_label("Steps")).to_be_visible()


def test_what_is_wrong_is_told(visiting: Open, server: str, picture_path: Path, tmp_path: Path) -> None:
    with visiting(server, refused=frozenset({400})) as visit:
        (tmp_path / "text.png").write_text("no picture")
        visit.page.set_input_files("#file", tmp_path / "text.png")
        visit.waits_for("#error", "this is no picture that can be shown")
        visit.picture(picture_path)
        expect(visit.page.locator("#error")).to_be_empty()
        visit.page.set_input_files("#mask-file", SAMPLES / "sky_mask.png")
        visit.waits_for("#error", r"the mask has \d+x\d+ pixels, the picture 96x64")
        visit.drag((0.3, 0.5), (0.7, 0.5))
        visit.page.get_by_text("Settings").click()
        visit.page.get_by_label("Seed").evaluate("input => { input.type = 'text'; input.value = 'many'; }")
        visit.edit()
        visit.waits_for("#error", "seed: 'many'")
        expect(visit.page.get_by_role("button", name="Edit", exact=True)).to_be_enabled()


def test_a_key_is_asked_for_and_used(visiting: Open, tiny_builtin: Path, picture_path: Path, tmp_path: Path) -> None:
    key, _ = KeyFile(tmp_path).add("ann", datetime.now(UTC), ScryptCost(n=2, r=1, p=1))
    engine, cache = EngineSettings(model=tiny_builtin, dtype="float32", threads=1), CacheSettings(service=None)
    settings = Settings(data_dir=tmp_path, engine=engine, cache=cache, auth=AuthSettings(required=True))
    with (
        live_server(settings, lambda: open_local_replica(engine, cache)) as url,
        visiting(url, refused=frozenset({401})) as visit,
    ):
        visit.waits_for("#error", "API key")
        field = visit.page.get_by_label("Key, kept in this tab")
        expect(field).to_be_visible()
        field.fill(key)
        field.press("Tab")
        visit.waits_for("#model", "tiny-builtin")
        visit.picture(picture_path)
        visit.drag((0.3, 0.5), (0.7, 0.5))
        visit.edit()
        assert changed(pixels_of(picture_path), visit.result()).any()


def test_a_phone_shows_all_of_it(visit: Visit, picture_path: Path) -> None:
    visit.page.set_viewport_size({"width": 360, "height": 720})
    visit.picture(picture_path)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
