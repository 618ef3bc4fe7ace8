"""Reports as runs of MLflow: what was chosen as parameters, what was found as metrics, the files as artifacts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from models.releases.registry import ChurnRegistry
from pipelines.experiments.result import Uplift


def record(home: Path, report: Uplift, files: Sequence[Path]) -> str:
    """Record a report as a run of a home's MLflow; returns its id."""
    with ChurnRegistry(home).run(f"report {report.experiment}") as run:
        chosen = {"source": report.source, "window_days": report.window_days, "primary": report.primary}
        tags = {"health": "ok" if report.health.ok else "; ".join(report.health.reasons)[:4_000]}
        run.tell(
            {"experiment": report.experiment, "config_hash": report.config_hash, **chosen}, dict(_found(report)), tags
        )
        run.keep(files)
        return run.id


def _found(report: Uplift) -> Iterator[tuple[str, float]]:
    """Differences of the primary metric and the p-value of the sample ratio, by names that MLflow takes."""
    if report.srm.p_value is not None:
        yield "srm_p_value", report.srm.p_value
    for row in report.metrics:
        if row.metric == report.primary and (row.variant, row.control) in report.heads:
            name = f"{row.metric} {row.variant} {row.control}"
            for bound in ("estimate", "low", "high"):
                if (value := getattr(row.absolute, bound)) is not None:
                    yield (
                        "".join(sign if sign.isalnum() or sign in "_-. " else "_" for sign in f"{name} {bound}"),
                        value,
                    )
