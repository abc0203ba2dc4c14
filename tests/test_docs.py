"""docs/math.md: every claim has a section that names its assumptions, and every link leads somewhere."""

import re
from pathlib import Path

import pytest

from analysis.theory import CLAIMS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Headings as GitHub names them."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}"


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: claim.id)
def test_every_claim_has_a_row_a_section_its_test_and_its_assumptions(claim):
    text = (ROOT / "docs" / "math.md").read_text(encoding="utf-8")
    assert f"| [{claim.id}](#{claim.id}) |" in text
    assert f"[`test_claims.py -k {claim.id}`](../tests/analysis/theory/test_claims.py)" in text
    section = text.split(f"\n### {claim.id}\n")[1].split("\n### ")[0]
    named = {" ".join(name.split()) for name in re.findall(r"\*([^*]+)\*", section.split("Assumption")[1])}
    assert named == set(claim.assumptions)
