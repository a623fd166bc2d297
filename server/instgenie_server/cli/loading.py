"""Getting a model ready to edit: the same for every command that runs one in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from instgenie.editor import Editor
    from instgenie_cache import RecordStore
    from instgenie_cache.wire.messages import ArenaUse

    OpenStore = Callable[[ArenaUse], RecordStore]

MAX_THREADS = 1024


class DtypeChoice(StrEnum):
    """`auto` measures which of the others is faster here."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


ModelOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="A model in the diffusers folder format.", show_default="the embedded model"),
]
DtypeOption = Annotated[DtypeChoice, typer.Option(help="Compute dtype; auto measures which is faster here.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=MAX_THREADS, help="CPU threads.", show_default="one per core")
]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedEditor:
    """An editor, with the store that keeps its records.

    Attributes:
        load_ms: time to import the libraries, measure dtypes, read the weights and open the store.
    """

    editor: Editor
    dtype: str
    load_ms: float


def load_editor(
    folder: Path | None, dtype: DtypeChoice, threads: int | None, open_store: OpenStore | None = None
) -> LoadedEditor:
    """Load a model on this machine's best device.

    Args:
        folder: None is the embedded model.
        open_store: gives the store for its records, once it is loaded; it is told how memory is best mapped. None
            keeps them in memory, half of what is free.
    Raises:
        ParameterError: there is no such folder.
        CheckpointError: the folder holds no usable model.
    """
    started = time.perf_counter()
    if folder is not None and not folder.is_dir():
        from instgenie.errors import ParameterError

        raise ParameterError("model", f"{folder} is not a folder")
    from instgenie.records import dtype_name

    if open_store is None:
        from instgenie.load_editor import load_editor as load

        editor = load(folder, dtype.value, threads)
    else:
        from instgenie.editor import Editor
        from instgenie.load_model import load_model

        checkpoint = load_model(folder, dtype.value, threads)
        # To page-lock memory, it has to be writable.
        editor = Editor(checkpoint, open_store("write" if checkpoint.forward.device.type == "cuda" else "read"))
    load_ms = 1000 * (time.perf_counter() - started)
    return LoadedEditor(editor, dtype_name(editor.checkpoint.forward.dtype), load_ms)
