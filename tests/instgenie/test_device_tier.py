"""Steps on the model's device: within the budget, evicted in the policy's order, gone when their template is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from torch import Tensor

from instgenie.checkpoint import Checkpoint
from instgenie.device_tier import DeviceReader, DeviceTier, default_device_cache_bytes
from instgenie.editor import Editor
from instgenie.request import EditRequest, EditResult
from instgenie_cache import MemoryStore
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.eviction import PolicyName
from instgenie_cache.policies import make_policy
from instgenie_cache.wire.address import Address
from tests.instgenie.edits import PLENTY_BYTES, BrokenStore, TappedStore, a_request, an_editor, pixels, random_picture

STEPS = 4
STEP_BYTES = 2 * 2 * 64 * 2 * 16 * 4  # K and V in 2 blocks of 64 tokens, 2 heads of 16 channels, float32


def a_tier(budget_bytes: int, policy: PolicyName = "lru") -> DeviceTier:
    """An empty one."""
    return DeviceTier(budget_bytes, make_policy(policy))


def payload(num_bytes: int = 10) -> list[Tensor]:
    """Of one block."""
    return [torch.zeros(num_bytes, dtype=torch.uint8)]


def add(tier: DeviceTier, template: str, step: int, num_bytes: int = 10, cost_ms: float = 1.0) -> bool:
    """Whether the tier took the step."""
    with tier.read(template) as reader:
        is_reserved = reader.reserve(step, num_bytes)
        if is_reserved:
            reader.fill(payload(num_bytes), cost_ms)
        return is_reserved


def used(tier: DeviceTier, template: str, step: int) -> bool:
    """Whether the step is there; it is used by that."""
    with tier.read(template) as reader:
        return reader.use(step) is not None


def test_what_was_added_is_given() -> None:
    tier = a_tier(100)
    with tier.read("a") as reader:
        assert reader.use(3) is None
        assert reader.reserve(3, 10)
        mine = payload()
        reader.fill(mine, 1.0)
        found = reader.use(3)
    assert found is not None
    assert found[0] is mine[0]
    assert tier.holds("a", [3])
    assert not tier.holds("a", [3, 4])
    assert not tier.holds("b", [3])
    assert tier.used_bytes == 10


@pytest.mark.parametrize(("policy", "stays"), [("lru", "b"), ("lfu", "a"), ("gdsf", "a")])
def test_policy_decides_who_goes(policy: PolicyName, stays: str) -> None:
    tier = a_tier(20, policy)
    add(tier, "a", 0)
    assert used(tier, "a", 0)
    add(tier, "b", 0)
    assert add(tier, "c", 0)
    assert [tier.holds(template, [0]) for template in "abc"] == [stays == "a", stays == "b", True]


def test_costly_steps_stay() -> None:
    tier = a_tier(20, "gdsf")
    for template, cost_ms in (("a", 1.0), ("b", 9.0)):
        add(tier, template, 0, cost_ms=cost_ms)
    add(tier, "c", 0, cost_ms=5.0)
    assert [tier.holds(template, [0]) for template in "abc"] == [False, True, True]


def test_step_in_use_is_not_evicted() -> None:
    tier = a_tier(20)
    for template in "ab":
        add(tier, template, 0)
    with tier.read("a") as reader:
        assert reader.use(0) is not None
        assert add(tier, "c", 0)
        assert [tier.holds(template, [0]) for template in "abc"] == [True, False, True]
        assert not add(tier, "d", 0, 20)
    assert [tier.holds(template, [0]) for template in "abc"] == [True, False, True]  # nothing went in vain
    assert add(tier, "d", 0, 20)


def test_step_larger_than_the_budget_is_not_taken() -> None:
    tier = a_tier(20)
    add(tier, "a", 0)
    assert not add(tier, "b", 0, 21)
    assert tier.holds("a", [0])
    assert not add(a_tier(0), "a", 0, 1)


def test_template_larger_than_the_budget_keeps_what_fits() -> None:
    tier = a_tier(25)
    for _ in "ab":
        for step in range(4):
            if not used(tier, "a", step):
                add(tier, "a", step)
        assert [tier.holds("a", [step]) for step in range(4)] == [True, True, False, False]


def test_step_that_is_not_filled_gives_its_memory_back() -> None:
    tier = a_tier(20)
    with tier.read("a") as reader:
        assert reader.reserve(0, 20)
        assert tier.used_bytes == 20
        assert not tier.holds("a", [0])
        assert not used(tier, "a", 0)
        assert not add(tier, "a", 0)  # another one is at it
        reader.done()
        assert tier.used_bytes == 0
        assert reader.reserve(1, 20)
    assert tier.used_bytes == 0


def test_dropped_template_is_gone_and_stays_away() -> None:
    tier = a_tier(100)
    for step in range(3):
        add(tier, "a", step)
    add(tier, "b", 0)
    with tier.read("a") as using, tier.read("a") as filling:
        assert using.use(0) is not None
        assert filling.reserve(5, 10)
        tier.drop("a")
        assert not any(tier.holds("a", [step]) for step in range(6))
        assert tier.used_bytes == 30  # of step 0, which is in use, of step 5, and of b
        filling.fill(payload(), 1.0)
        assert not tier.holds("a", [5])
        assert not using.reserve(1, 10)
    assert tier.used_bytes == 10
    assert add(tier, "a", 0)  # the next edit's
    tier.clear()
    assert tier.used_bytes == 0


class Machine(RuleBasedStateMachine):
    """Any order of uses, fills and drops: the budget holds, and what is given is what was filled."""

    readers: Bundle[DeviceReader] = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        self.tier = a_tier(50, "gdsf")
        self.all: list[DeviceReader] = []
        self.open: dict[DeviceReader, tuple[str, int, Sequence[Tensor] | None]] = {}

    @rule(target=readers, template=st.sampled_from("abc"))
    def read(self, template: str) -> DeviceReader:
        self.all.append(self.tier.read(template))
        return self.all[-1]

    @rule(reader=readers, step=st.integers(0, 3), num_bytes=st.integers(1, 30))
    def take(self, reader: DeviceReader, step: int, num_bytes: int) -> None:
        found = reader.use(step)
        self.open[reader] = ("use", step, found)
        if found is None and reader.reserve(step, num_bytes):
            self.open[reader] = ("reserve", step, [torch.full((num_bytes,), step, dtype=torch.uint8)])

    @rule(reader=readers)
    def finish(self, reader: DeviceReader) -> None:
        kind, _, payloads = self.open.pop(reader, ("", 0, None))
        if kind == "reserve" and payloads is not None:
            reader.fill(payloads, 1.0)
        reader.done()

    @rule(template=st.sampled_from("abc"))
    def drop(self, template: str) -> None:
        self.tier.drop(template)
        assert not any(self.tier.holds(template, [step]) for step in range(4))

    @rule(reader=consumes(readers))
    def close(self, reader: DeviceReader) -> None:
        self.open.pop(reader, None)
        reader.close()

    @invariant()
    def budget_holds(self) -> None:
        in_use = {id(p): p[0].nbytes for _, _, p in self.open.values() if p is not None}
        assert sum(in_use.values()) <= self.tier.used_bytes <= 50

    @invariant()
    def payloads_are_their_steps(self) -> None:
        for kind, step, payloads in self.open.values():
            assert kind != "use" or payloads is None or bool((payloads[0] == step).all())

    def teardown(self) -> None:
        for reader in self.all:
            reader.close()
        self.tier.clear()
        assert self.tier.used_bytes == 0


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestMachine = Machine.TestCase


def same(first: EditResult, second: EditResult) -> bool:
    """Whether the pictures are byte-identical."""
    return np.array_equal(pixels(first.picture), pixels(second.picture))


def edited(editor: Editor, **values: Any) -> EditResult:
    """The edit, no step of which was dense."""
    result = editor.edit(a_request(**values))
    assert result.timings.dense_steps == 0
    return result


def test_edit_reads_what_is_on_the_device_from_there_alone(builtin_kind: Checkpoint) -> None:
    store = TappedStore()
    editor = an_editor(builtin_kind, store, device_cache_bytes=STEPS * STEP_BYTES)
    cold = edited(editor)
    assert store.reads == [0, 1, 2, 3]
    again = edited(editor)
    assert store.reads == [0, 1, 2, 3]
    assert same(cold, again)
    assert (again.timings.cache, again.timings.tier) == ("hit", "device")
    assert editor.shelf.device_tier.used_bytes == STEPS * STEP_BYTES


def test_steps_that_do_not_fit_come_from_the_store(builtin_kind: Checkpoint) -> None:
    store = TappedStore()
    editor = an_editor(builtin_kind, store, device_cache_bytes=STEPS * STEP_BYTES - 1)
    results = [edited(editor) for _ in "abc"]
    assert store.reads == [0, 1, 2, 3, 3, 3]
    assert results[2].timings.tier == "host"
    assert same(results[0], results[2])


def test_edit_that_needs_fewer_steps_needs_those_alone(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind, device_cache_bytes=STEPS * STEP_BYTES)
    assert [edited(editor, strength=s).timings.tier for s in (0.5, 0.5, 1.0, 1.0)] == [None, "device", "host", "device"]


def test_codecs_on_the_device(builtin_kind: Checkpoint) -> None:
    """It keeps encoded records: as many more fit."""
    editor = an_editor(builtin_kind, codec="int8", device_cache_bytes=STEPS * STEP_BYTES // 3)
    first, again = edited(editor), edited(editor)
    assert again.timings.tier == "device"
    assert same(first, again)


@pytest.mark.parametrize("how", ["forget", "elsewhere"])
def test_deleted_template_is_dropped_from_the_device(builtin_kind: Checkpoint, how: str) -> None:
    store = MemoryStore(PLENTY_BYTES)
    editor = an_editor(builtin_kind, store, device_cache_bytes=PLENTY_BYTES)
    with editor.start(a_request()) as running:
        key = running.template_key
    edited(editor)
    edited(editor, picture=random_picture(seed=5))
    assert editor.shelf.device_tier.used_bytes == 2 * STEPS * STEP_BYTES
    if how == "forget":
        editor.forget(key)
        assert editor.shelf.device_tier.used_bytes == STEPS * STEP_BYTES
    else:
        store.delete(key)
    assert edited(editor).timings.cache == "cold"
    assert edited(editor).timings.tier == "device"


def test_edit_under_way_does_not_bring_a_forgotten_template_back(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind, device_cache_bytes=PLENTY_BYTES)
    with editor.start(a_request()) as running:
        running.advance()
        editor.forget(running.template_key)
        while not running.done:
            running.advance()
        assert running.timings.dense_steps == 0
    assert editor.shelf.device_tier.used_bytes == 0


def test_device_serves_while_the_store_fails(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind, device_cache_bytes=PLENTY_BYTES)
    expected = edited(editor)
    editor.shelf.store = BrokenStore(PLENTY_BYTES)
    result = edited(editor)
    assert (result.timings.cache, result.timings.tier) == ("hit", "device")
    assert same(result, expected)


def test_device_serves_while_the_service_does_not_answer(builtin_kind: Checkpoint, tmp_path: Path) -> None:
    """Not to be told of a template is not to be told that it is gone."""
    editor = an_editor(builtin_kind, device_cache_bytes=PLENTY_BYTES)
    expected = edited(editor)
    editor.shelf.store = ServiceStore.open(Address(path=str(tmp_path / "nobody")), client="test")
    for _ in range(2):
        result = edited(editor)
        assert (result.timings.cache, result.timings.tier) == ("hit", "device")
        assert same(result, expected)
    editor.store.close()


def test_use_on_the_device_is_use_of_the_template(builtin_kind: Checkpoint) -> None:
    """Else the store would evict from below what is used most."""
    editor = an_editor(builtin_kind, device_cache_bytes=PLENTY_BYTES)
    for _ in range(3):
        edited(editor)
    assert editor.store.stats().hits == 3


def test_edit_that_fails_in_a_step_leaves_nothing_in_use(builtin_kind: Checkpoint) -> None:
    class Failing(TappedStore):
        def read(self, template: str, step: int, records: Any) -> Any:
            if step == 2:
                raise KeyboardInterrupt
            return records

    editor = an_editor(builtin_kind, Failing(), device_cache_bytes=PLENTY_BYTES)
    with pytest.raises(KeyboardInterrupt):
        editor.edit(a_request())
    assert editor.shelf.device_tier.used_bytes == 2 * STEP_BYTES
    editor.shelf.device_tier.clear()
    assert editor.shelf.device_tier.used_bytes == 0


def test_nothing_is_kept_on_the_cpu_unless_it_is_asked_for(builtin_kind: Checkpoint) -> None:
    assert default_device_cache_bytes(torch.device("cpu")) == 0
    editor = an_editor(builtin_kind)
    request: EditRequest = a_request()
    for _ in "ab":
        editor.edit(request)
    assert editor.shelf.device_tier.used_bytes == 0


@pytest.mark.gpu
def test_default_budget_is_a_share_of_the_devices_free_memory() -> None:
    free_bytes, _ = torch.cuda.mem_get_info()
    assert default_device_cache_bytes(torch.device("cuda")) == pytest.approx(0.3 * free_bytes, rel=0.05)
