"""The figures in the documents are those of the records."""

import figures


def test_the_documents_are_current() -> None:
    for path in figures.DOCUMENTS:
        text = path.read_text()
        assert figures.renewed(text) == text, f"{path.name}: run make figures"


def test_what_is_outside_a_block_is_left_alone() -> None:
    text = "before\n<!-- figures: sets -->\nSTALE\n<!-- end -->\nA <!-- figure: parameters -->STALE<!-- end --> it\n"
    new = figures.renewed(text)
    assert new.startswith("before\n") and "\n<!-- end -->\nA <" in new and new.endswith("<!-- end --> it\n")
    assert "STALE" not in new
    assert figures.renewed(new) == new


def test_parameters_of_all_parts_sum_up() -> None:
    parts = ("tracker.encoder.", "tracker.context.", "tracker.judge.", "camera_estimator.", "triangulator.")
    millions = [float(figures.parameters(part).split()[0]) for part in parts]
    assert abs(sum(millions) - float(figures.parameters().split()[0])) < 0.021
    assert min(millions) > 0
