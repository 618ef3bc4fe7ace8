"""Every command that README and docs print, run as it is printed, in one house; and what they show as answered."""

from pathlib import Path

import pytest
from support.architecture import ROOT
from support.pages import FIRST, PAGES, PageFailed, blocks, flushed, place, wrong

pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.long]


def test_whatever_a_page_prints_does_what_the_page_says(tmp_path: Path) -> None:
    """One house for all pages, as a reader would have; pages that tell and ask come first."""
    faults, run = [], 0
    with place(tmp_path) as here:
        for page in PAGES:
            if not any(block.runs for block in blocks(page)):
                continue
            if str(page.relative_to(ROOT)) not in FIRST:
                flushed(here)
            try:
                printed = here.run(page)
            except PageFailed as failure:
                faults.append(str(failure))
                continue
            faults += wrong(page, printed)
            run += len(printed)
    assert not faults, "\n".join(faults)
    assert run == sum(block.runs for page in PAGES for block in blocks(page))
