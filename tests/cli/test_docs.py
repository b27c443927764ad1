"""The reference of commands in docs/ is what the program says today."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    monkeypatch.delenv("COLUMNS", raising=False)
    written = generate.FILE.read_text(encoding="utf-8")
    if f"with typer {generate.TYPER}:" not in written:
        pytest.skip("docs/cli.md was written with another version of typer")
    assert written == generate.reference(), "run `make docs`"
