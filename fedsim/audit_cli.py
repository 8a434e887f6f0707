"""`fedsim audit`: plan, run, verify, compare.

Exit codes of `run`: 3 a control failed · 4 the accountant is contradicted · 5 a leak was found · 6 nothing could be
decided · 0 no confirmatory test found a leak; the first that applies. 1, 2 and 130 as everywhere.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, help="Attack what a run released, with controls, and write a card.")

AuditFile = Annotated[Path, typer.Argument(help="A YAML file, such as configs/audit/quick.yaml.")]
AuditFolder = Annotated[Path, typer.Argument(help="A folder that `fedsim audit run` printed.")]
Assignments = Annotated[list[str] | None, typer.Argument(help="Overrides: rows=32 run.method.ipc=1")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command()
def plan(config: AuditFile, assignments: Assignments = None, debug: Debug = False) -> None:
    """Say what an audit would take and what it could find; runs nothing."""
    from fedsim.audit.schema import load_audit
    from fedsim.audit_checks import plan as text

    print(text(load_audit(config, assignments or [])))  # noqa: T201


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A YAML file of an audit, or the folder of a finished run.")],
    assignments: Assignments = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder that audits are made in: runs, or audit in the finished run's.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Insist that there is an audit to resume.")] = False,
    attack: Annotated[
        list[str] | None, typer.Option(help="Of the file's attacks, these only; of a finished run, what is tried.")
    ] = None,
    debug: Debug = False,
) -> int:
    """Make the runs, attack what they released, judge, write card.json and card.html; prints the folder.

    Of a finished run nothing is known but its records: reconstructions are shown, and all is exploratory.
    """
    from fedsim.audit.schema import load_audit, of_finished
    from fedsim.audit_judgement import only
    from fedsim.auditing import audit

    if config.is_dir():
        asked, default = of_finished(config, attack or [], assignments or []), config / "audit"
    else:
        asked, default = only(load_audit(config, assignments or []), attack or []), Path("runs")
    folder, code = audit(asked, out or default, resume=resume, argv=sys.argv[1:])
    print(folder)  # noqa: T201
    return code


@app.command()
def verify(folder: AuditFolder, debug: Debug = False) -> None:
    """Recompute every number of a card from the stored scores; exit 1 names what differs."""
    from fedsim.audit_checks import verify as check

    print(check(folder))  # noqa: T201


@app.command()
def compare(first: AuditFolder, second: AuditFolder, debug: Debug = False) -> None:
    """Print two cards' findings side by side."""
    from fedsim.audit_checks import compare as text

    print(text(first, second))  # noqa: T201
