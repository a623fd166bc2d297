"""`--fidelity`: how close to the dense edit an edit of the command line is to be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from instgenie.fidelity import DEFAULT_PSNR_DB, MAX_PSNR_DB, MIN_PSNR_DB, cheapest, taken_steps

if TYPE_CHECKING:
    from instgenie.fidelity import MeasuredSetting
    from instgenie.request import EditRequest

_FORM = re.compile(r"exact|auto(?::([0-9]{1,3}(?:\.[0-9]{1,6})?))?")


@dataclass(frozen=True, slots=True)
class FidelityOption:
    """What was asked for.

    Attributes:
        psnr_db: bound of `auto`; None is `exact`, all tokens.
    """

    psnr_db: float | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `exact`, `auto` or `auto:40`.

        Raises:
            ParameterError: it is none of these.
        """
        from instgenie.errors import ParameterError

        match = _FORM.fullmatch(text)
        if match is None:
            raise ParameterError("fidelity", f"{text[:60]!r} is neither exact nor auto nor such as auto:40")
        if text == "exact":
            return cls(None)
        psnr_db = DEFAULT_PSNR_DB if match[1] is None else float(match[1])
        if not MIN_PSNR_DB <= psnr_db <= MAX_PSNR_DB:
            raise ParameterError("fidelity", f"{psnr_db:g} dB is not in {MIN_PSNR_DB}..{MAX_PSNR_DB}")
        return cls(psnr_db)

    @property
    def field(self) -> str:
        """The same as a field of a server's form."""
        asked = {"mode": "exact"} if self.psnr_db is None else {"mode": "auto", "psnr_db": self.psnr_db}
        return json.dumps(asked)

    def rules_out(self, option: str, measured: Iterable[MeasuredSetting]) -> str:
        """Why an option cannot be had beside it, where it computes every token."""
        if self.psnr_db is None:
            return f"exact computes every token, which {option} rules out"
        best = max((one.psnr_db for one in measured), default=None)
        most = "none was measured" if best is None else f"the best has {best:g}"
        return f"no measured setting has {self.psnr_db:g} dB, {most}: it computes every token, which {option} rules out"

    def settled(self, request: EditRequest, measured: Iterable[MeasuredSetting], model_steps: int) -> EditRequest:
        """The request with the settings that it stands for on a model; one that computes all tokens is not cached.

        Args:
            model_steps: of the model's full schedule.
        """
        setting = None if self.psnr_db is None else cheapest(measured, self.psnr_db)
        if setting is None:
            return replace(request, cached=False)
        steps = taken_steps(request.steps or model_steps, request.strength)
        chosen: dict[str, Any] = {**setting.settings_of(steps)}
        return replace(request, **chosen)
