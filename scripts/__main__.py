"""The commands: `python -m scripts COMMAND`, each also a make target."""

import atexit
import contextlib
import gc
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from scripts import backup, log, pipeline, server, sessions
from scripts.errors import Exit, WarehouseError, describe, of_database, sqlstate
from scripts.settings import settings

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def up() -> None:
    """Start the embedded server; make it first if there is none."""
    print(server.up())


@app.command()
def down() -> None:
    """Stop the embedded server."""
    print(server.down())


@app.command()
def status() -> None:
    """Say where the server is and whether it answers."""
    print(server.status())


@app.command()
def env() -> None:
    """Print the shell's settings: eval "$(make -s env)"."""
    print(server.env())


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(
    context: typer.Context,
    login: Annotated[str, typer.Option(help="Login to use.")] = "analyst",
    database: Annotated[str | None, typer.Option(help="Database; by default the login's own.")] = None,
) -> None:
    """Open psql; what follows goes to it."""
    server.psql(context.args, login, database)


@app.command()
def init() -> None:
    """Make server, databases, roles, schemas and an empty prod; what is there stays."""
    pipeline.init()


Drop = Annotated[Path, typer.Argument(help="Folder with one folder per batch.")]


@app.command()
def load(drop: Drop) -> None:
    """Load the batches in a folder into landing."""
    pipeline.load(drop)


@app.command()
def refresh(
    drop: Annotated[Path | None, typer.Argument(help="Folder to load first.")] = None,
    quiet: Annotated[bool, typer.Option(help="Say nothing on success, and all on standard error otherwise.")] = False,
) -> None:
    """The scheduled job: load, then bring every model up to now."""
    with _quiet() if quiet else contextlib.nullcontext():
        pipeline.refresh(drop)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep standard output back, and put it on standard error when it ends in a failure."""
    kept = io.StringIO()
    try:
        with contextlib.redirect_stdout(kept):
            yield
    except BaseException:
        sys.stderr.write(kept.getvalue())
        raise


@app.command()
def schedule(
    drop: Annotated[Path | None, typer.Argument(help="Folder to load first.")] = None,
    install: Annotated[bool, typer.Option(help="Put the line into this account's crontab.")] = False,
) -> None:
    """Print the crontab line of the scheduled job; on request, install it."""
    from scripts.schedule import install as put
    from scripts.schedule import line

    print(put(drop) if install else line(drop))


@app.command()
def deploy(
    break_dependents: Annotated[
        bool, typer.Option("--break-dependents", help="Drop what others have built on marts and the change breaks.")
    ] = False,
) -> None:
    """Bring prod to the code in this folder, and up to now."""
    if break_dependents:
        os.environ["WAREHOUSE_BREAK_DEPENDENTS"] = "1"
    pipeline.deploy()


@app.command()
def forget(customer: Annotated[str, typer.Argument(help="Its customer_id, as the source has it.")]) -> None:
    """Replace a customer by a pseudonym everywhere, and delete e-mail and name."""
    from scripts.forget import forget as forget_customer

    print(forget_customer(customer))


@app.command()
def generate(
    target: Annotated[Path | None, typer.Argument(help="New folder; by default generated in WAREHOUSE_HOME.")] = None,
    orders: Annotated[int, typer.Option(help="Orders of the history.")] = 100_000,
    days: Annotated[int, typer.Option(help="Single days after it, a batch each.")] = 0,
    seed: Annotated[int, typer.Option(help="Another seed, another shop.")] = 7,
    dirt: Annotated[bool, typer.Option(help="Add a batch of everything that may be wrong.")] = False,
) -> None:
    """Write a made-up shop of any size as batches, with the truth about it in manifest.json."""
    from scripts.generate import generate as make

    print(make(target or settings().warehouse_home / "generated", orders, days=days, seed=seed, dirt=dirt))


@app.command()
def audit() -> None:
    """Make every check over whole tables; a run looks only at what it replaces."""
    pipeline.audit()


@app.command()
def contracts() -> None:
    """Write what is made of the models: the contract with analysts, docs/catalog.json, docs/llms.txt."""
    pipeline.contracts()


Model = Annotated[str, typer.Argument(help="A table of marts or ml.")]


@app.command()
def export(
    model: Model,
    form: Annotated[Literal["csv", "parquet"], typer.Option("--format", help="Kind of file.")] = "csv",
    to: Annotated[Path | None, typer.Option(help="File; by default named after the table, in this folder.")] = None,
) -> None:
    """Write the rows of a table to a file."""
    from scripts.export import export as write

    print(write(model, form, to))


@app.command()
def profile(model: Model) -> None:
    """Show what is in the columns of a table: nulls, distinct values, least, quartiles, greatest."""
    from scripts.export import profile as show

    show(model)


@app.command()
def audit_deps() -> None:
    """Look up the locked packages in the list of known vulnerabilities."""
    from scripts.audit_deps import audit_deps as look_up

    look_up()


@app.command()
def reap() -> None:
    """End sessions of analysts and agents that are over their limits."""
    sessions.reap()


@app.command()
def restate(models: Annotated[list[str], typer.Argument(help="As in marts.daily_revenue.")]) -> None:
    """Compute models of prod, and what hangs on them, anew from everything that was loaded."""
    pipeline.restate(models)


@app.command()
def migrate() -> None:
    """After an upgrade of SQLMesh: save its state, then bring it to the new version."""
    pipeline.migrate()


@app.command("backup")
def take_backup() -> None:
    """Back up warehouse and state together, between runs, and check every byte."""
    backup.backup()


@app.command()
def restore(folder: Annotated[Path, typer.Argument(help="A folder of the backups.")]) -> None:
    """Make the server of this WAREHOUSE_HOME, which has none yet, from a backup; compare it with its record."""
    backup.restore(folder)


@app.command()
def restore_drill() -> None:
    """Prove the newest backup: restore it beside the live server, compare, remove it; prints RTO and RPO."""
    backup.drill()


@app.command()
def doctor(repair: Annotated[bool, typer.Option(help="Do what is safe.")] = False) -> None:
    """Look the warehouse over: what is wrong, where, and what to do."""
    from scripts import doctor as doctors

    doctors.examine(repair=repair)


@app.command()
def run() -> None:
    """The main job on the sample: everything from nothing to marts, and what they say."""
    pipeline.run_sample()


def main() -> None:
    """Run one command. Whatever goes wrong ends with one message and its exit code, without a trace on the screen."""
    # A command is short, and SQLMesh's syntax trees live to its end: looking through them was a third of a run's CPU.
    gc.disable()
    atexit.register(gc.freeze)
    try:
        app()
    except Exception as error:
        sys.exit(_end(error))


def _end(error: Exception) -> Exit:
    """Tell what ended a command, and give its exit code. What nobody expected is a bug, with its trace in the logs."""
    if sqlstate(error) and not isinstance(error, WarehouseError):
        fault = of_database(error, "the database failed", "look after the server, then run again")
        error = error if fault.code == Exit.BUG else fault
    if isinstance(error, WarehouseError):
        print(f"error: {error}", file=sys.stderr)
        log.event("error", what=error.what, exit_code=int(error.code))
        return error.code
    print(f"error: a bug: {type(error).__name__}: {describe(error)}", file=sys.stderr)
    print(f"  report it with its trace, at the end of {log.trace(error)}", file=sys.stderr)
    return Exit.BUG


if __name__ == "__main__":
    main()
