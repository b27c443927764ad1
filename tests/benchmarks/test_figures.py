"""The tables in the documents are those of the records."""

import figures


def test_the_documents_are_current():
    for path in figures.DOCUMENTS:
        text = path.read_text()
        assert figures.renewed(text) == text, f"{path.name}: run make figures"


def test_what_is_outside_a_block_is_left_alone():
    text = "before\n<!-- figures: sets -->\nold\n<!-- end -->\nafter\n"
    new = figures.renewed(text)
    assert new.startswith("before\n") and new.endswith("\n<!-- end -->\nafter\n") and "old" not in new
    assert figures.renewed(new) == new
