"""The command line. Progress goes to stderr; the last line of stdout is the run directory.

Exit codes: 0 finished · 1 the run failed · 2 the input is wrong (one line says what) · 130 interrupted (state saved);
those of `audit run` are in audit_cli.py.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer

from fedsim import __version__, catalog
from fedsim.audit_cli import app as audit_app
from fedsim.types import RunFailed, UserError
from fedsim.verdict import WRONG_INPUT, verdict

if TYPE_CHECKING:
    from fedsim.schema import Experiment

app = typer.Typer(
    suggest_commands=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED = 130
"""Exit code after control-C, as shells have it."""

app.add_typer(audit_app, name="audit")

ConfigFile = Annotated[Path, typer.Argument(help="A YAML file, such as configs/quickstart/feddm_digits.yaml.")]
Assignments = Annotated[list[str] | None, typer.Argument(help="Overrides: method.ipc=5 seed=3 model=mlp")]
Out = Annotated[Path, typer.Option(help="Folder that run directories are made in.")]
Resume = Annotated[bool, typer.Option("--resume", help="Insist that there is a run to resume.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and an estimate; run nothing.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _version(asked: bool) -> bool:
    if asked:
        print(__version__)  # noqa: T201
        raise typer.Exit
    return asked


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Federated dataset distillation over Flower: clients upload small synthetic sets instead of gradients."""


@app.command()
def run(
    config: ConfigFile,
    assignments: Assignments = None,
    out: Out = Path("runs"),
    resume: Resume = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Simulate a federation: clients condense or train, the server learns, a report is written."""
    from fedsim.schema import load_run

    _execute(load_run(config, assignments or []), out, resume, dry_run)


@app.command()
def distill(
    config: ConfigFile,
    assignments: Assignments = None,
    out: Out = Path("runs"),
    resume: Resume = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Condense one data set centrally and score the result beside a random real subset."""
    from fedsim.schema import load_distillation

    _execute(load_distillation(config, assignments or []), out, resume, dry_run)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep's YAML, such as configs/quickstart/backdoor_digits.yaml.")],
    assignments: Annotated[list[str] | None, typer.Argument(help="seeds=[0,1,2], or overrides of the run")] = None,
    out: Out = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and what is finished; make none.")] = False,
    debug: Debug = False,
) -> None:
    """Vary one run by rows, columns and seeds; finished runs are skipped; prints the folder of sweep.html."""
    from fedsim.sweep import listed, load_sweep, run_sweep

    asked, plans = load_sweep(file, assignments or [])
    if dry_run:
        print(listed(asked, plans, out))  # noqa: T201
        return
    folder, failures = run_sweep(asked, plans, out, lambda text: print(text, file=sys.stderr))  # noqa: T201
    print(folder)  # noqa: T201
    if failures:
        raise RunFailed(f"{len(failures)} of {len(plans)} runs failed; {failures[0]}")


@app.command()
def evaluate(
    synthetic: Annotated[Path, typer.Argument(help="A synthetic set: .safetensors of ours, .npz of others.")],
    data: Annotated[str, typer.Option(help="Images to test on: mnist, digits …, or npz with data.path=FILE")],
    assignments: Annotated[
        list[str] | None, typer.Argument(help="model=resnet18 nets=5 train.epochs=300 data.path=…")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the networks.")] = 0,
    debug: Debug = False,
) -> None:
    """Score anybody's saved set: train fresh networks on it, test them on real images; prints JSON.

    The protocol that a set of ours was scored with is kept in it and is the default. Keys: nets, labels, teacher,
    temperature, train.epochs, train.lr, train.augment, model, data.path, data.zca, compute.
    """
    from fedsim.api import evaluate_file

    words = assignments or []
    if more := [word for word in words if "=" not in word and Path(word).is_file()]:
        raise UserError(f"one synthetic set at a time; {1 + len(more)} files were given ({synthetic}, {more[0]} …)")
    print(json.dumps(evaluate_file(synthetic, data, words, seed), indent=2))  # noqa: T201


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="One or several run directories.")],
    table: Annotated[bool, typer.Option("--table", help="A table instead of a page.")] = False,
    out: Annotated[Path | None, typer.Option(help="File to write: a page, or a table .md .csv .tex.")] = None,
    debug: Debug = False,
) -> None:
    """Write one self-contained page over one or several runs and print its path; with --table print a table."""
    from fedsim.report.table import FORMATS, finished, runs_among, said, write_table

    if table or (out is not None and out.suffix in FORMATS):
        print(write_table(runs, out), end="")  # noqa: T201
        _tell(said(finished(runs)[1]))
        return
    from fedsim.report.html import write_report

    kept, others = runs_among(runs)
    if len(kept) > 1 and out is None:  # report.html is the page that the first run has of its own
        raise UserError(
            f"{len(kept)} runs side by side need a page of their own; give --out FILE, such as compare.html"
        )
    target = out or kept[0] / "report.html"
    if target.suffix not in ("", ".html", ".htm"):
        raise UserError(f"--out {target}: a page is .html, a table one of {', '.join(FORMATS)}; give such a name")
    write_report(kept, target)
    _tell(said(others))
    print(target)  # noqa: T201


@app.command(name="list")
def list_(
    kind: Annotated[str, typer.Argument(help="methods, algorithms, models, data, partitions, networks, budgets, …")],
    debug: Debug = False,
) -> None:
    """Print the catalog's names of one kind."""
    readings = (kind, kind.removesuffix("s"), f"{kind.removesuffix('ies')}y")
    for name in catalog.names(next((one for one in readings if one in catalog.CATALOG), kind)):
        print(name)  # noqa: T201


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help="A name of the catalog, such as dm or feddm.")],
    debug: Debug = False,
) -> None:
    """Print what a part does, its source, and its settings with their defaults."""
    from fedsim.describe import describe as text

    print(text(name))  # noqa: T201


def _execute(config: Experiment, out: Path, resume: bool, dry_run: bool) -> None:
    from fedsim.experiment import execute
    from fedsim.plan import plan

    if dry_run:
        print(plan(config))  # noqa: T201
    else:
        print(execute(config, out, resume=resume, argv=sys.argv[1:]))  # noqa: T201


def main(arguments: list[str] | None = None) -> int:
    """Entry point: run the command line and turn every outcome into its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if "--debug" in words:
        os.environ["FEDSIM_DEBUG"] = "1"  # client processes print their tracebacks too
    try:
        code = app(args=words, prog_name="fedsim", standalone_mode=False)
        if code == INTERRUPTED:  # typer has turned the interrupt into this code already
            raise KeyboardInterrupt
    except (KeyboardInterrupt, click.Abort):
        return _say("interrupted; the state is saved, run the same command again to go on", INTERRUPTED)
    except click.ClickException as error:
        return _fail(_usage(error), WRONG_INPUT, words)
    except Exception as error:  # noqa: BLE001 - the last line of defence; --debug shows the traceback
        return _fail(*verdict(error), words)
    return code if isinstance(code, int) else 0


def _usage(error: click.ClickException) -> str:
    """What is wrong with the command line, and what shows how it goes."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "fedsim"
    valid = ""
    if context is not None and isinstance(context.command, click.Group) and not isinstance(error, click.NoSuchOption):
        valid = f"valid: {', '.join(context.command.commands)}; "
    return f"{error.format_message().rstrip('.')}; {valid}see {path} --help"


def _fail(text: str, code: int, words: list[str]) -> int:
    if "--debug" in words:
        traceback.print_exc()
    return _say(f"fedsim: {text}", code)


def _tell(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)  # noqa: T201


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)  # noqa: T201
    return code
