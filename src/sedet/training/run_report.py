"""The report at the end of a training: never able to stop it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sedet.training.inputs import TrainingData


def write_run_report(out: Path, data: TrainingData, batch: int, device: str, say: Callable[[str], None]) -> None:
    """Write ``report.html`` into a finished run's folder, and say where; what goes wrong is a warning.

    Args:
        out: run folder.
        data: what was trained on and judged by.
        batch: images at a time.
        device: where the shipped detector is judged.
        say: is given a line.
    """
    try:
        from sedet.predictor import load
        from sedet.reporting.report import REPORT, ReportData, write_report
        from sedet.reporting.run_folder import read_run, twin_of

        run = read_run(out)
        pool = data.pool.paths if data.pool is not None else ()
        predictor = load(run.detector, device) if run.detector.is_file() else None
        shown = ReportData(data.labeled, data.val, tuple(pool))
        write_report(run, shown, predictor, out / REPORT, twin=twin_of(run), batch=batch)
        say(f"Report:   {out / REPORT} (open it in a browser)")
    except KeyboardInterrupt:
        say(f"Interrupted: there is no report. The training is complete; to make it: sedet report {out}")
    except Exception as error:  # a full disk, no memory, a bug: no report is worth a training
        reason = " ".join(str(error).split())[:200]
        say(
            f"Warning: the report could not be made ({type(error).__name__}: {reason}). "
            f"To try again: sedet report {out}"
        )
