"""Stage "sweep": a table, pairs and a folder in; rows with what came of each design out. The same command goes on where it stopped."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from edgedit.core.errors import Interrupted, UsageError
from edgedit.core.files import held
from edgedit.core.say import Event, Say, silent
from edgedit.core.stop import stop_on_signals
from edgedit.design.sweep.local import local
from edgedit.design.sweep.plan import Plan, make_plan
from edgedit.design.sweep.results import Row, seal_sweep
from edgedit.design.sweep.schedule import Run, Workers
from edgedit.design.sweep.settings import SweepSettings
from edgedit.design.sweep.state import Folder, open_folder
from edgedit.design.sweep.table import Table, find_table

_RAY = re.compile(r"ray(://[\w.\-\[\]:]+)?")


@dataclass(frozen=True)
class Swept:
    """A sweep's folder and its rows."""

    out: Path
    rows: list[Row]

    @property
    def complete(self) -> bool:
        """Whether every row that can be run is done."""
        return all(row.status in ("done", "skipped") for row in self.rows)


def sweep(table: str | Table, pairs: str | Path, out: str | Path, settings: SweepSettings | None = None, *, where: str = "local",
          say: Say = silent) -> Swept:
    """Train, evaluate, export and profile every row of a table.

    Jobs whose output is there and was made by the same command are not run again; a training goes on from its checkpoint. A job that fails
    is noted in its row and stops only those that need it.

    Args:
        table: a preset ("table6", "fig3" …), a TOML file, or a table.
        pairs: folder of kind "pairs".
        out: the sweep's folder; for a cluster one that all nodes see under this path.
        settings: budgets, stages, rows, and settings of the verbs.
        where: "local", "ray" (the cluster of this machine, or one begun for this sweep), or "ray://HEAD:10001".
        say: hears progress of all jobs, and how each ended.

    Raises:
        UsageError, ArtifactError: the table, the settings or the pairs are not usable; nothing was started.
        MissingError: no Ray, or its head does not answer; what is done stays done.
        OutputError: the folder cannot be written, is in use, or is not visible on a node.
        Interrupted: Ctrl-C or SIGTERM, after running jobs have saved.
    """
    if where != "local" and not _RAY.fullmatch(where):
        raise UsageError("a sweep runs on this machine or on a Ray cluster", saw=where, fix="--where local, --where ray, or --where "
                         "ray://HEAD:10001")
    settings = settings or SweepSettings()
    plan = make_plan(find_table(table) if isinstance(table, str) else table, pairs, settings)
    folder = open_folder(out, plan)
    with held(folder.path, "sweeping in"):
        for row in plan.rows:
            if row.skip:
                say(Event(f"row {row.name} is skipped: {row.skip}", level="warning"))
        with _workers(where, folder, plan, settings, say) as workers, stop_on_signals(deferred=True) as stop:
            run = Run(plan, folder, workers, say, lambda: seal_sweep(plan, folder))
            try:
                run.go(stop)
            finally:
                rows = seal_sweep(plan, folder)
        if stop.reason:
            done = sum(row.status == "done" for row in rows)
            raise Interrupted(f"sweep: stopped by {stop.reason}; running jobs have saved",
                              saw=f"{done} of {len(rows)} rows are done, in {folder.path}", fix="run the same command again to go on")
    return Swept(folder.path, rows)


def _workers(where: str, folder: Folder, plan: Plan, settings: SweepSettings, say: Say) -> AbstractContextManager[Workers]:
    if where == "local":
        return local(folder)
    from edgedit.design.sweep.cluster import cluster

    return cluster(where, folder, plan, settings.cluster, say)
