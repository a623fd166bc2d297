"""Edits of pictures with one checkpoint, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from instgenie.checkpoint import Checkpoint
from instgenie.codecs import CodecName
from instgenie.encoder import Encoder
from instgenie.errors import TemplateNotCachedError
from instgenie.parameter_checks import check_drift
from instgenie.pipeline.step_planner import StepPlanner
from instgenie.prepared_edit import PreparedEdit
from instgenie.request import EditRequest, EditResult, EditTimings
from instgenie.running_edit import RunningEdit, phase
from instgenie.template import Template
from instgenie.template_shelf import TemplateShelf
from instgenie.warm_request import WarmedWindow, WarmOutcome, WarmRequest
from instgenie.window import Window
from instgenie_cache import RecordStore
from instgenie_cache.eviction import PolicyName


class Editor:
    """Edits pictures with one checkpoint, and keeps templates' records in `store`.

    The store is the editor's from then on: `close` closes it too. An edit is prepared, encoded and given what serves
    it, and then takes its steps: `edit` does all of that in the caller's thread; a replica does each in its own, for
    many edits at a time.

    Not for use by several threads at once, but for `prepare`, and for what its `shelf` allows.

    Attributes:
        codec: of the records that it makes and reads.
        drift: of the templates that it makes and reads: see `Template`.
        encoder: makes tensors of requests.
        shelf: the templates' records, wherever they are.
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
        self.checkpoint, self.codec, self.drift = checkpoint, codec, drift
        self.encoder = Encoder(checkpoint, codec, drift)
        self.shelf = TemplateShelf(checkpoint.forward, store, device_cache_bytes, eviction)

    @property
    def store(self) -> RecordStore:
        """Where records are kept."""
        return self.shelf.store

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
            prepared = self.prepare(request)
        running = self.encode(prepared, timings)
        if not running.is_cached:
            return running
        outcome: WarmOutcome = "hit"
        reader = self.shelf.read(running)
        if reader is None and running.must_hit:
            raise TemplateNotCachedError(f"template {running.template_key} is not cached")
        if reader is None:
            with phase(timings, "record_ms"):
                outcome = self.shelf.record(running.template, check)
                reader = None if outcome == "refused" else self.shelf.read(running)
        timings.cache = outcome
        if outcome != "hit":
            timings.tier = None
        running.serve_from(reader)
        return running

    def prepare(self, request: EditRequest) -> PreparedEdit:
        """What can be told of an edit without the model. Any thread may ask.

        Raises:
            InvalidInputError: the request does not fit the model.
        """
        return self.encoder.prepare(request)

    def encode(self, prepared: PreparedEdit, timings: EditTimings | None = None, name: str = "") -> RunningEdit:
        """The edit before its first step. It computes all tokens, unless it is told where to take records from.

        Args:
            name: what traces call it.
        """
        timings = timings or EditTimings()
        with phase(timings, "encode_ms", name):
            state, template = self.encoder.encode(prepared)
        state.extrapolated = prepared.extrapolated_steps
        running = RunningEdit(
            self.checkpoint,
            prepared.request,
            prepared.window,
            state,
            template,
            timings,
            self.shelf.drop_useless,
            self.shelf.planner,
            prepared.refresh_steps,
        )
        running.name = name
        return running

    def dense(self, request: EditRequest) -> EditResult:
        """The same edit with every token of every step computed."""
        return self.edit(replace(request, cached=False, step_cache=1))

    def warm(self, request: WarmRequest, check: Callable[[], None] = lambda: None) -> Iterator[WarmedWindow]:
        """Record the templates of a picture's windows, one by one, those that are not recorded yet.

        Args:
            check: called before each step; what it raises ends the recording.

        Raises:
            InvalidInputError: the request does not fit the model.
        """
        windows = self.encoder.windows(request)
        for number, window in enumerate(windows):
            template = self.encoder.template(request, window)
            outcome: WarmOutcome = "hit" if self.shelf.holds(template.key) else self.shelf.record(template, check)
            yield self.warmed(number, windows, template, outcome)

    def warmed(self, number: int, windows: list[Window], template: Template, outcome: WarmOutcome) -> WarmedWindow:
        """What came of the recording of a window.

        Args:
            number: among the windows, from 0.
        """
        num_bytes = self.num_bytes(template.key) if self.drift and outcome != "refused" else None
        if num_bytes is None:  # all steps are kept, or none: what it would take at most
            num_bytes = template.form(self.checkpoint.forward).size(template.steps).num_bytes
        return WarmedWindow(number + 1, len(windows), windows[number], template.key, num_bytes, outcome)

    def window(self, request: EditRequest) -> Window:
        """The part of the picture that the model will see."""
        return self.encoder.window(request)

    def pays_alone(self, request: EditRequest) -> bool:
        """Whether recording the template for this one edit computes fewer tokens than the dense edit.

        The template lane is one pass over all tokens in every step, an edit has a pass for each prompt of its
        guidance, in the steps that its strength leaves. So it never pays for a model that has its guidance distilled.
        """
        return self._pays_alone(self.prepare(request))

    def holds(self, request: EditRequest) -> bool:
        """Whether the records of the edit's template are there. Asking is no use of them, and encodes nothing."""
        return self.shelf.holds(self.prepare(request).key)

    def caching_pays(self, request: EditRequest) -> bool:
        """Whether this edit alone is faster with records than dense: they are there, or recording them pays within it.

        For those who edit a picture once: `replace(request, cached=editor.caching_pays(request))`.
        """
        prepared = self.prepare(request)
        return self.shelf.holds(prepared.key) or self._pays_alone(prepared)

    def num_bytes(self, key: str) -> int | None:
        """Bytes of a template's records, None where they are not there; `key` as in `RunningEdit.template_key`."""
        return self.shelf.num_bytes(key)

    def pin(self, key: str) -> bool:
        """Keep a template's records from being evicted; False where they are not there."""
        return self.shelf.pin(key)

    def unpin(self, key: str) -> None:
        """Let a template's records be evicted again."""
        self.shelf.unpin(key)

    def forget(self, key: str) -> None:
        """Drop a template's records, from the device too; edits that use them go on.

        Raises:
            CacheError: the store did not drop them.
        """
        self.shelf.forget(key)

    def flush(self) -> None:
        """Wait until what was recorded is as durable as the store makes it. A store that fails costs records only."""
        self.shelf.flush()

    def plan_steps(self, planner: StepPlanner | None) -> None:
        """From the next edit on have steps planned; None takes every record, however long it takes to load."""
        self.shelf.planner = planner

    def close(self) -> None:
        """Let go of the device tier and close the store. A second time it does nothing."""
        self.shelf.close()

    def _pays_alone(self, prepared: PreparedEdit) -> bool:
        index = prepared.index
        passes = (prepared.steps - len(prepared.extrapolated_steps)) * prepared.passes
        lane = self.checkpoint.settings.steps if prepared.request.steps is None else prepared.request.steps
        return lane * index.num_tokens + passes * index.num_active < passes * index.num_tokens
