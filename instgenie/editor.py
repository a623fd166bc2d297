"""One edit from request to picture, in this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from instgenie.canvas import canvas_mask, canvas_pixels, to_tensor
from instgenie.checkpoint import Checkpoint
from instgenie.codecs import CodecName, codec_version
from instgenie.conditioning import mask_pixels
from instgenie.content_cache import ContentCache
from instgenie.device_tier import DeviceTier, StepKey, default_buffer_bytes, default_device_cache_bytes
from instgenie.edit_state import EditState, Guidance, segment_shapes, start_edit
from instgenie.errors import TemplateNotCachedError
from instgenie.flow import flow_sigmas
from instgenie.keyframes import Keyframes, drift_version
from instgenie.mask import bounding_box
from instgenie.page_lock import PageLock
from instgenie.parameter_checks import check_drift
from instgenie.pipeline.copies import Copies
from instgenie.pipeline.cost import SegmentShape
from instgenie.pipeline.loader import Loader
from instgenie.pipeline.step_planner import StepPlanner
from instgenie.pipeline.step_source import Loaded
from instgenie.records import dtype_name
from instgenie.request import EditRequest, EditResult, EditTimings
from instgenie.running_edit import RunningEdit, phase
from instgenie.template import Template, record_template
from instgenie.template_reader import TemplateReader
from instgenie.text import Prompt
from instgenie.token_index import token_index
from instgenie.trajectory import Trajectory, seeded_noise
from instgenie.warm_request import WarmedWindow, WarmOutcome, WarmRequest
from instgenie.window import Window, all_windows, choose_window
from instgenie_cache import (
    BeingWrittenError,
    CacheError,
    RecordStore,
    ServiceError,
    content_digest,
    template_key,
    template_name,
)
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.eviction import EvictionPolicy, PolicyName
from instgenie_cache.policies import make_policy

log = logging.getLogger(__name__)

_ENCODINGS_BUDGET_BYTES = 256 << 20


class Editor:
    """Edits pictures with one checkpoint, one at a time, and keeps templates' records in `store`.

    The store is the editor's from then on: `close` closes it too. Encoded prompts and pictures are kept by content. Not
    for use by several threads at once, but for `num_bytes`, `pin`, `unpin`, `forget` and `prefetch`.

    Attributes:
        codec: of the records that it makes and reads.
        drift: of the templates that it makes and reads: see `Template`.
        device_tier: records that are on the model's device.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        store: RecordStore,
        *,
        codec: CodecName = "raw",
        drift: float = 0.0,
        device_cache_bytes: int | None = None,
        eviction: PolicyName = "gdsf",
    ) -> None:
        """Args:
        device_cache_bytes: budget of the device tier; None is a share of a CUDA device's free memory, 0 on the CPU.
        eviction: which of the device tier's steps go first.

        Raises:
            ParameterError: drift is not in 0 <= drift < 1.
        """
        check_drift(drift)
        self.checkpoint, self.store, self.codec, self.drift = checkpoint, store, codec, drift
        device = checkpoint.forward.device
        budget_bytes = default_device_cache_bytes(device) if device_cache_bytes is None else device_cache_bytes
        policy: EvictionPolicy[StepKey] = make_policy(eviction)
        self.device_tier = DeviceTier(budget_bytes, policy)
        self._page_lock = PageLock.on(device)
        self._planner: StepPlanner | None = None
        self._loader = Loader(Copies(device), default_buffer_bytes(device), self._learn)
        self._prompts: ContentCache[Prompt] = ContentCache(_ENCODINGS_BUDGET_BYTES, lambda prompt: prompt.num_bytes)
        self._latents: ContentCache[Tensor] = ContentCache(_ENCODINGS_BUDGET_BYTES, lambda latents: latents.nbytes)

    def edit(self, request: EditRequest) -> EditResult:
        """Run the edit. A cached edit of an unknown template records it first; a failing cache costs dense steps.

        Raises:
            InvalidInputError: the request does not fit the model.
        """
        with self.start(request) as running:
            while not running.done:
                running.advance()
            return running.finish()

    def start(self, request: EditRequest, check: Callable[[], None] = lambda: None) -> RunningEdit:
        """The edit before its first step, its template recorded if need be.

        Args:
            check: called before each step of the recording; what it raises ends it.

        Raises:
            InvalidInputError: the request does not fit the model.
            TemplateNotCachedError: the request must hit and does not.
        """
        timings = EditTimings()
        with phase(timings, "encode_ms"):
            window = self.window(request)
            state, template = self._prepare(request, window)
        is_cached = request.cached and state.index.num_active < state.index.num_tokens
        steps = range(state.record_step, template.steps)
        shapes = segment_shapes(state)
        reader = self._open(template, steps, shapes, timings, request.must_hit, check) if is_cached else None
        return RunningEdit(
            self.checkpoint, request, window, state, template, timings, reader, partial(self._drop_useless, template)
        )

    def dense(self, request: EditRequest) -> EditResult:
        """The same edit with every token computed."""
        return self.edit(replace(request, cached=False))

    def warm(self, request: WarmRequest, check: Callable[[], None] = lambda: None) -> Iterator[WarmedWindow]:
        """Record the templates of a picture's windows, one by one, those that are not recorded yet.

        Args:
            check: called before each step; what it raises ends the recording.

        Raises:
            InvalidInputError: the request does not fit the model.
        """
        model = self.checkpoint
        patch, canvas_tokens, size = model.codec.patch, model.settings.canvas_tokens, request.picture.size
        if request.boxes is None:
            windows = all_windows(*size, patch, canvas_tokens)[: request.max_windows]
        else:
            windows = list(dict.fromkeys(choose_window(*size, box, patch, canvas_tokens) for box in request.boxes))
        for number, window in enumerate(windows):
            canvas = canvas_pixels(request.picture, window)
            clean = self._encode(canvas.tobytes(), to_tensor(canvas))
            grid = (window.canvas_height // patch, window.canvas_width // patch)
            template = self._template(request, canvas.tobytes(), clean, grid)
            outcome: WarmOutcome = "hit" if self._is_held(template.key) else self._record(template, check)
            num_bytes = self.num_bytes(template.key) if self.drift and outcome != "refused" else None
            if num_bytes is None:  # all steps are kept, or none: what it would take at most
                num_bytes = template.form(model.forward).size(template.steps).num_bytes
            yield WarmedWindow(number + 1, len(windows), window, template.key, num_bytes, outcome)

    def window(self, request: EditRequest) -> Window:
        """The part of the picture that the model will see."""
        size = request.picture.size
        box = bounding_box(request.mask) if request.crop else (0, 0, *size)
        return choose_window(*size, box, self.checkpoint.codec.patch, self.checkpoint.settings.canvas_tokens)

    def pays_alone(self, request: EditRequest) -> bool:
        """Whether recording the template for this one edit computes fewer tokens than the dense edit.

        The template lane is one pass over all tokens in every step, an edit has a pass for each prompt of its
        guidance, in the steps that its strength leaves. So it never pays for a model that has its guidance distilled.
        """
        index = token_index(self._mask(request, self.window(request)), self.checkpoint.codec.patch, request.halo)
        passes = len(self._guidance(request).prompts)
        steps = self._steps(request)
        steps_run = len(flow_sigmas(steps, self.checkpoint.shift, index.num_tokens, request.strength)) - 1
        dense = steps_run * passes * index.num_tokens
        return steps * index.num_tokens + steps_run * passes * index.num_active < dense

    def holds(self, request: EditRequest) -> bool:
        """Whether the records of the edit's template are there. Asking is no use of them, and encodes nothing."""
        return self._is_held(self._name_of(request))

    def prefetch(self, request: EditRequest) -> None:
        """Have the records of an edit that will come soon brought into memory; where there are none, nothing."""
        if request.cached:
            self.store.prefetch(self._name_of(request))

    def caching_pays(self, request: EditRequest) -> bool:
        """Whether this edit alone is faster with records than dense: they are there, or recording them pays within it.

        For those who edit a picture once: `replace(request, cached=editor.caching_pays(request))`.
        """
        return self.holds(request) or self.pays_alone(request)

    def num_bytes(self, key: str) -> int | None:
        """Bytes of a template's records, None where they are not there; `key` as in `RunningEdit.template_key`."""
        try:
            return self.store.num_bytes(key)
        except CacheError as error:
            log.warning("template %s cannot be looked up: %s", key, error)
            return None

    def pin(self, key: str) -> bool:
        """Keep a template's records from being evicted; False where they are not there."""
        try:
            return self.store.pin(key)
        except CacheError as error:
            log.warning("template %s cannot be pinned: %s", key, error)
            return False

    def unpin(self, key: str) -> None:
        """Let a template's records be evicted again."""
        try:
            self.store.unpin(key)
        except CacheError as error:
            log.warning("template %s cannot be unpinned: %s", key, error)

    def forget(self, key: str) -> None:
        """Drop a template's records, from the device too; edits that use them go on.

        Raises:
            CacheError: the store did not drop them.
        """
        self.device_tier.drop(key)
        self.store.delete(key)

    def flush(self) -> None:
        """Wait until what was recorded is as durable as the store makes it. A store that fails costs records only."""
        try:
            self.store.flush()
        except CacheError as error:
            log.warning("records may not last: %s", error)

    def plan_steps(self, planner: StepPlanner | None) -> None:
        """From the next edit on have steps planned; None takes every record, however long it takes to load."""
        self._planner = planner

    def close(self) -> None:
        """Let go of the device tier and close the store. A second time it does nothing."""
        self._loader.close()
        self.device_tier.clear()
        self._page_lock.close()
        try:
            self.store.close()
        except CacheError as error:
            log.warning("the cache cannot be closed: %s", error)

    def _open(
        self,
        template: Template,
        steps: range,
        shapes: Sequence[SegmentShape],
        timings: EditTimings,
        must_hit: bool,
        check: Callable[[], None],
    ) -> TemplateReader | None:
        """A reader of the template, which is recorded first if need be; None where the cache does not have it then."""
        self._page_lock.follow(self.store)
        outcome: WarmOutcome = "hit"
        reader = self._reader(template, steps)
        if reader is None and must_hit:
            raise TemplateNotCachedError(f"template {template.key} is not cached")
        if reader is None:
            with phase(timings, "record_ms"):
                outcome = self._record(template, check)
                reader = None if outcome == "refused" else self._reader(template, steps)
        if reader is None:
            timings.cache = "refused"
            return None
        timings.cache = outcome
        if outcome == "hit":
            kept = [reader.kept_step(step) for step in steps]
            timings.tier = "device" if self.device_tier.holds(template.key, kept) else reader.tier()
        reader.prefetch(steps, shapes)
        return reader

    def _reader(self, template: Template, steps: range) -> TemplateReader | None:
        """A reader of the template, or None where it is not there.

        A lease is taken even where every step is on the device: it tells the store that the template is in use, so that
        popular ones are not evicted from below, and notices that a template was deleted by somebody else. Where the
        store fails, the device alone will do.
        """
        device = self.device_tier.read(template.key)  # before the lease: so a template that is dropped now is noticed
        form = template.form(self.checkpoint.forward)
        try:
            lease = self.store.lease(template.key)
            if lease is None and isinstance(self.store, ServiceStore) and not self.store.is_connected:
                raise ServiceError("the cache service does not answer")  # to the store that is a miss, which it is not
        except CacheError as error:
            log.warning("template %s cannot be looked up: %s", template.key, error)
            # Which steps were kept, the store alone knows.
            if not self.drift and self.device_tier.holds(template.key, steps):
                return TemplateReader(form, None, device, self._loader, self._planner)
            device.close()
            return None
        if lease is None:
            device.close()
            self.device_tier.drop(template.key)  # the store's word counts: the template may have been deleted
            return None
        try:
            keyframes = Keyframes.read(lease.note, template.steps)
        except CacheError as error:  # nobody can read it
            log.warning("template %s is dropped: %s", template.key, error)
            device.close()
            lease.release()
            self._drop(template.key)
            return None
        return TemplateReader(form, lease, device, self._loader, self._planner, keyframes)

    def _drop(self, key: str) -> None:
        try:
            self.forget(key)
        except CacheError as error:
            log.warning("template %s cannot be dropped: %s", key, error)

    def _prepare(self, request: EditRequest, window: Window) -> tuple[EditState, Template]:
        """Everything of an edit that comes before its first step."""
        model = self.checkpoint
        device = model.forward.device
        mask = self._mask(request, window)
        index = token_index(mask, model.codec.patch, request.halo)
        canvas = canvas_pixels(request.picture, window)
        content, pixels = canvas.tobytes(), to_tensor(canvas)
        clean = self._encode(content, pixels)
        template = self._template(request, content, clean, index.grid)
        sigmas = flow_sigmas(template.steps, model.shift, index.num_tokens, request.strength)
        state = start_edit(
            index.to(device),
            template.trajectory,
            seeded_noise(tuple(clean.shape), request.seed).to(device),
            self._condition(content, pixels, mask),
            self._guidance(request),
            sigmas,
            first_step=template.steps + 1 - len(sigmas),
        )
        return state, template

    def _mask(self, request: EditRequest, window: Window) -> Tensor:
        """[H, W] bool on the canvas."""
        # A copy: views with negative strides are legal masks, but no tensors.
        return torch.from_numpy(np.array(canvas_mask(request.mask, window)))

    def _name_of(self, request: EditRequest) -> str:
        """Name of the edit's template; nothing is encoded for it."""
        window = self.window(request)
        patch = self.checkpoint.codec.patch
        grid = (window.canvas_height // patch, window.canvas_width // patch)
        return self._name(request, canvas_pixels(request.picture, window).tobytes(), grid)

    def _name(self, request: EditRequest | WarmRequest, pixels: bytes, grid: tuple[int, int]) -> str:
        """Name of the template in stores.

        The namespace is part of the name alone, not of what is hashed: stores keep tenants apart, and they can do so
        only by what they can read.
        """
        model = self.checkpoint
        settings: dict[str, str | int | float | bool | None] = {
            "revision": model.revision,
            "dtype": dtype_name(model.forward.dtype),
            "rows": grid[0],
            "columns": grid[1],
            "steps": self._steps(request),
            "seed": request.template_seed,
            "prompt": request.template_prompt,
            "guidance": self._scale(request) if model.distilled else None,
            "codec": codec_version(self.codec),
        }
        if self.drift:  # else the key is what it was before there were keyframes
            settings["drift"] = drift_version(self.drift)
        return template_name(request.namespace, template_key(pixels, settings))

    def _template(
        self, request: EditRequest | WarmRequest, pixels: bytes, clean: Tensor, grid: tuple[int, int]
    ) -> Template:
        model = self.checkpoint
        nothing = torch.zeros(grid[0] * model.codec.patch, grid[1] * model.codec.patch, dtype=torch.bool)
        condition = None
        if model.takes_fill:
            condition = torch.cat([clean, self._mask_channels(nothing)], dim=-1)
        return Template(
            self._name(request, pixels, grid),
            grid,
            Trajectory(clean, seeded_noise(tuple(clean.shape), request.template_seed).to(clean.device)),
            condition,
            self._prompt(request.template_prompt),
            self._scale(request) if model.distilled else None,
            flow_sigmas(self._steps(request), model.shift, grid[0] * grid[1]),
            self.codec,
            self.drift,
        )

    def _is_held(self, name: str) -> bool:
        try:
            return self.store.holds(name)
        except CacheError as error:
            log.warning("template %s cannot be looked up: %s", name, error)
            return False

    def _record(self, template: Template, check: Callable[[], None]) -> WarmOutcome:
        """Record a template. A hit, where the store refused because somebody else wrote it, who is done by now."""
        try:
            record_template(self.checkpoint.forward, template, self.store, check)
        except CacheError as error:
            if isinstance(error, BeingWrittenError) and self._is_held(template.key):
                return "hit"
            log.warning("template %s is not cached: %s", template.key, error)
            return "refused"
        return "cold"

    def _drop_useless(self, template: Template, reader: TemplateReader) -> None:
        """After an edit: drop what was of no use to it, so that the next edit makes it anew."""
        if reader.is_foreign:
            log.warning("template %s has records that are not this model's, and is dropped", template.key)
            self._drop(template.key)
        elif reader.is_lost:  # in the store there may be a successor, which is not this edit's to drop
            self.device_tier.drop(template.key)
        elif reader.is_below:  # the next edit shall find it nearer
            try:
                self.store.prefetch(template.key)
            except CacheError as error:
                log.warning("template %s cannot be brought into memory: %s", template.key, error)

    def _learn(self, loaded: Loaded) -> None:
        if self._planner is not None:
            self._planner.observe_load(loaded)

    def _encode(self, content: bytes, pixels: Tensor) -> Tensor:
        """[L, C] tokens of a canvas on the model's device, by content."""

        def encode() -> Tensor:
            return self.checkpoint.codec.encode(pixels)[0].to(self.checkpoint.forward.device)

        return self._latents.get_or_make(content_digest(content, repr(tuple(pixels.shape)).encode()), encode)

    def _condition(self, content: bytes, pixels: Tensor, mask: Tensor) -> Tensor | None:
        """[L, C + P*P] fill conditioning: the picture without its masked pixels, and the mask."""
        if not self.checkpoint.takes_fill:
            return None
        masked = self._encode(content_digest(content, mask.numpy().tobytes()).encode(), pixels * ~mask)
        return torch.cat([masked, self._mask_channels(mask)], dim=-1)

    def _mask_channels(self, mask: Tensor) -> Tensor:
        """[H, W] bool -> [L, patch * patch] float32 on the model's device."""
        codec = self.checkpoint.codec
        return mask_pixels(mask.float()[None, None], codec.patch, codec.pack)[0].to(self.checkpoint.forward.device)

    def _steps(self, request: EditRequest | WarmRequest) -> int:
        return self.checkpoint.settings.steps if request.steps is None else request.steps

    def _scale(self, request: EditRequest | WarmRequest) -> float:
        scale = self.checkpoint.settings.guidance if request.guidance is None else request.guidance
        return float(scale)  # 30 and 30.0 are one template

    def _guidance(self, request: EditRequest) -> Guidance:
        scale = self._scale(request)
        if self.checkpoint.distilled:
            return Guidance((self._prompt(request.prompt),), scale, True)
        if scale == 1 or not request.prompt:  # both branches would be the same
            return Guidance((self._prompt(request.prompt),), 1.0, False)
        if scale == 0:
            return Guidance((self._prompt(""),), 1.0, False)
        return Guidance((self._prompt(request.prompt), self._prompt("")), scale, False)

    def _prompt(self, text: str) -> Prompt:
        return self._prompts.get_or_make(
            content_digest(text.encode()), lambda: self.checkpoint.prompts.encode([text])[0]
        )
