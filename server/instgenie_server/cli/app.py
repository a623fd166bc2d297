"""The command line's commands, and what they have in common: `--version` and how errors are told."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from instgenie.idle_threads import let_idle_threads_sleep
from instgenie_server.cli.config import config
from instgenie_server.cli.doctor import doctor
from instgenie_server.cli.edit import edit
from instgenie_server.cli.keys import keys
from instgenie_server.cli.serve import serve
from instgenie_server.cli.templates import templates
from instgenie_server.cli.warm import warm

MAX_MESSAGE_CHARS = 600  # of loaders' messages, which may list every weight of a model
# What the extra `server` installs, by the names that are imported; a test compares them with pyproject.toml.
SERVER_EXTRA = frozenset(
    {"aiohttp", "aiohttp_sse", "aiosqlite", "prometheus_client", "pydantic", "structlog", "uvloop"}
)


class _Commands(TyperGroup):
    """Tells an error that is not ours in one line on stderr, with exit code 2 as for wrong usage."""

    def invoke(self, ctx: Any) -> Any:
        from instgenie.errors import CheckpointError, InvalidInputError
        from instgenie_server.operator_error import OperatorError

        try:
            return super().invoke(ctx)
        except (InvalidInputError, OperatorError) as error:
            message = str(error)
        except CheckpointError as error:
            message = f"model: {error}"
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in SERVER_EXTRA:
                raise
            needs = f"`{ctx.invoked_subcommand}` needs {package.replace('_', '-')}, which is not installed"
            message = f"{needs}: pip install -e '.[server]' in the repository"
        line = " ".join(message.split())
        if len(line) > MAX_MESSAGE_CHARS:
            line = line[:MAX_MESSAGE_CHARS] + " ..."
        typer.echo(f"error: {line}", err=True)
        raise typer.Exit(2)


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
app.command()(edit)
app.command()(doctor)
app.command()(serve)
app.command()(warm)
app.add_typer(templates, name="templates")
app.add_typer(keys, name="keys")
app.add_typer(config, name="config")


def _print_version(wanted: bool) -> None:
    if wanted:
        from instgenie import __version__

        typer.echo(f"instgenie {__version__}")
        raise typer.Exit


@app.callback()
def common_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Masked, text-guided image edits: only what is masked is computed."""


def main() -> None:
    """Run the command that the arguments name."""
    let_idle_threads_sleep()
    app()
