"""How close to the dense edit a client wants its own, in place of the settings that make it so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from instgenie.fidelity import CHOSEN_SETTINGS, DEFAULT_PSNR_DB, MAX_PSNR_DB, MIN_PSNR_DB, cheapest, taken_steps
from instgenie.orders import ModelCard
from instgenie_server.api_error import invalid
from instgenie_server.intake.field_values import complaint, number, shown

if TYPE_CHECKING:
    from instgenie_server.intake.edit_form import EditForm

_Form = TypeVar("_Form", bound="EditForm")


class FidelityChoice(BaseModel):
    """A bound, or none to be kept: every token is computed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    mode: Literal["auto", "exact"] = "auto"
    psnr_db: Annotated[float, Field(ge=MIN_PSNR_DB, le=MAX_PSNR_DB), number] = Field(
        default=DEFAULT_PSNR_DB,
        description="Inside the mask, against the dense edit of the same seed. Of no use beside exact.",
    )


def _read(value: Any) -> Any:
    """JSON, or the mode alone, or with its bound."""
    if not isinstance(value, str):
        return value
    if (bound := value.removeprefix("auto:")) != value:
        return {"mode": "auto", "psnr_db": bound}
    if not value.lstrip().startswith("{"):
        return {"mode": value}
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise complaint(f"{shown(value)} is not JSON") from error


_Bound = Annotated[str, Field(json_schema_extra={"pattern": r"^auto:([1-9]\d(\.\d+)?|100)$"})]

# As a form's part it is a mode's name, with the bound behind it or not, or an object as JSON.
Fidelity = Annotated[
    FidelityChoice, BeforeValidator(_read, json_schema_input_type=Literal["auto", "exact"] | _Bound | FidelityChoice)
]


def joined(fields: Mapping[str, str], name: str) -> dict[str, Any]:
    """Fields of a form, where `name[a]` and `name[b]` are one field of that name."""
    parts = {key[len(name) + 1 : -1]: key for key in fields if key.startswith(f"{name}[") and key.endswith("]")}
    if not parts:
        return dict(fields)
    if name in fields:
        raise invalid(f"{name}: is there twice, once as {name}[...]", name)
    rest = {key: value for key, value in fields.items() if key not in parts.values()}
    return rest | {name: {part: fields[key] for part, key in parts.items()}}


def parts_of(name: str, model: type[BaseModel]) -> dict[str, Any]:
    """JSON schemas of the fields that `joined` takes for an object's."""
    fields: dict[str, Any] = model.model_json_schema()["properties"]
    return {
        f"{name}[{part}]": {key: value for key, value in schema.items() if key != "default"}
        for part, schema in fields.items()
    }


def settled(form: _Form, card: ModelCard) -> _Form:
    """The form with the settings that its `fidelity` stands for on a model.

    Raises:
        ApiError: 400; it contradicts another field.
    """
    asked = form.fidelity
    if asked is None:
        return form
    for name in CHOSEN_SETTINGS:
        if name in form.model_fields_set:
            raise invalid(f"fidelity: chooses {name}, which is to be left out then", "fidelity")
    setting = None if asked.mode == "exact" else cheapest(card.measured, asked.psnr_db)
    if setting is not None:
        steps = taken_steps(form.steps or card.steps, form.strength)
        return form.model_copy(update=setting.settings_of(steps))
    if form.cache == "only":
        bound = (
            "exact" if asked.mode == "exact" else f"{asked.psnr_db:g} dB, which no measured setting of the model held,"
        )
        raise invalid(f"fidelity: {bound} computes all tokens, which cache=only forbids", "fidelity")
    return form.model_copy(update={"cache": "off"})
