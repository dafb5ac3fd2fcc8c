"""Every number of docs/papers, docs/results.md and README.md is read from a committed record; see ``quoted``."""

from __future__ import annotations

from pathlib import Path

import pytest
import quoted

PAGES = quoted.pages()
#: Pages whose claims are still to be declared.
PENDING: set[str] = set()
README = quoted.ROOT / "README.md"


def test_a_page_without_claims_quotes_no_number() -> None:
    written = {p.name: p for p in (quoted.ROOT / "docs" / "papers").glob("*.md")}
    declared = {Path(m.PAGE).name for m in PAGES.values() if Path(m.PAGE).parent == Path("docs/papers")}
    assert declared <= set(written)
    for name in set(written) - declared - PENDING:
        assert quoted.problems(written[name].read_text(), []) == [], name


def test_every_committed_run_is_quoted_somewhere() -> None:
    """Each record is read by a page's claims, so none lies there stale."""
    quoted.run.cache_clear()
    for module in PAGES.values():
        list(module.claims())
    assert quoted.run.cache_info().currsize == len(list(quoted.RESULTS.glob("*.json"))) or PENDING


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_its_runs_found(name: str) -> None:
    module = PAGES[name]
    text = (quoted.ROOT / module.PAGE).read_text()
    assert quoted.problems(text, module.claims(), module.SETTINGS) == []


def test_the_readme_says_what_docs_results_says() -> None:
    results = PAGES["results"]
    assert quoted.problems(README.read_text(), results.readme(), results.README_SETTINGS) == []


@pytest.mark.parametrize("name", PAGES)
def test_a_changed_number_is_noticed(name: str) -> None:
    module = PAGES[name]
    text = (quoted.ROOT / module.PAGE).read_text()
    claims = list(module.claims())
    for number in list(quoted.numbers(text))[::7]:  # every seventh: each check reads the whole page
        at = number.start()
        changed = f"{text[:at]}{int(text[at]) % 9 + 1}{text[at + 1 :]}"
        assert quoted.problems(changed, claims, module.SETTINGS), f"{number[0]} at {number.start()} may say anything"


# ------------------------------------------------------------------------------------------------------------ the harness

PAGE = """Fig. 4, `kit --steps 7`: with 30 users it takes 1.25
to 2.5 ms.

| K | 1 |
|---|---|
| ours | 1.62 |
"""
CLAIMS = ["takes 1.25 to 2.5 ms", quoted.table(("K", "1"), ("ours", "1.62"))]


def test_a_page_that_is_right_has_no_problems() -> None:
    assert quoted.problems(PAGE, CLAIMS, ["30 users"]) == []


def test_what_is_wrong_is_named() -> None:
    changed = PAGE.replace("2.5", "2.4")
    assert "should say once: takes 1.25 to 2.5 ms" in quoted.problems(changed, CLAIMS, ["30 users"])[0]
    assert "stands behind 30" in quoted.problems(PAGE, CLAIMS)[0]
    assert "does not hold this setting" in quoted.problems(PAGE, CLAIMS, ["30 users", "8 cores"])[0]
    assert "needs a word" in quoted.problems(PAGE, CLAIMS, ["30"])[0]
    twice = quoted.problems(PAGE + "It takes 1.25 to 2.5 ms.", CLAIMS, ["30 users"])
    assert "should say once" in twice[0] and "stands behind 1.25" in twice[1]
    assert quoted.problems(PAGE.replace("2.5 ms", "2.5 ms, and 12.5 ms"), CLAIMS, ["30 users"])


def test_a_piece_ends_where_its_number_ends() -> None:
    assert quoted.problems("over 13.0 users", [], ["3.0 users"]) and quoted.problems("a gain of 1.25", ["gain of 1.2"])
    assert quoted.problems("a gain of 1.2.", ["gain of 1.2"]) == []


def test_new_numbers_are_written_where_the_words_stand() -> None:
    new = ["takes 1.5 to 2,000 ms", quoted.table(("K", "1"), ("ours", "1.7")), "not on the page: 3"]
    text = quoted.renewed(PAGE, new)
    assert text == PAGE.replace("1.25", "1.5").replace("2.5", "2,000").replace("1.62", "1.7")
    assert quoted.problems(text, new[:2], ["30 users"]) == []
