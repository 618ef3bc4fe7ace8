"""Why there is no report."""

from __future__ import annotations

from features.errors import CroupierError


class ReportRefused(CroupierError):
    """There is nothing to report, or the files are not what they must be."""

    code = "report_refused"
    exit_code = 2
