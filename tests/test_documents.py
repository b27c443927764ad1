"""What stands in several documents agrees, and links between them lead somewhere."""

import re
import tomllib
from pathlib import Path

import pytest

import vggsfm_cli

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for folder, pattern in (
        (".", "*.md"),
        ("docs", "*.md"),
        ("benchmarks", "*.md"),
        ("examples", "**/*.md"),
        ("weights", "**/*.md"),
        ("tests", "**/*.md"),
    )
    for path in (ROOT / folder).glob(pattern)
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINK = re.compile(r"\]\((?!\w+:)(?P<path>[^)\s#]*)(?:#(?P<anchor>[^)\s]+))?\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def links(path: Path) -> list[tuple[str, str]]:
    """Path and anchor of every link within the repository."""
    return [(m["path"], m["anchor"] or "") for m in LINK.finditer(CODE.sub("", path.read_text(encoding="utf-8")))]


def anchors(path: Path) -> set[str]:
    """Anchors of the headings of a Markdown file."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    for path, anchor in links(document):
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{path} is not there"
        assert not anchor or anchor in anchors(target), f"{path} has no heading for #{anchor}"


def test_links_are_found() -> None:
    assert ("docs/cli.md", "") in links(ROOT / "README.md")


def test_every_page_is_part_of_the_site() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f": {page.name}\n" not in navigation] == []


def test_the_repository_has_one_address() -> None:
    address = PROJECT["urls"]["Repository"]
    assert all(url.startswith(address) for url in PROJECT["urls"].values())
    assert f'repository-code: "{address}"' in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    for name in ("README.md", "CONTRIBUTING.md"):
        assert f"git clone {address}\n" in (ROOT / name).read_text(encoding="utf-8")


def test_versions_agree() -> None:
    assert f"version: {vggsfm_cli.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    (torch,) = re.findall(r"^TORCH \?= (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"ARG TORCH={torch}\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


ODD = (
    "one a connected group",
    "way back",
    "before anyone knows the truth",
    "of all random choices",
    "is all here that",
    "differ by a rotation",
    "agree with no model",
    "whole every time",
    "what there is to say",
    "not believed",
    "goes by symptom",
    "as ever.",
)
"""Phrases that readers had to guess the meaning of; the glossary has the terms instead."""
TEXTS = [*DOCUMENTS, *(path for folder in ("src", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py")))]


def odd_phrases(text: str) -> list[str]:
    """Those of ``ODD`` in a text, also where a line ends within them."""
    plain = " ".join(text.lower().split())
    return [phrase for phrase in ODD if phrase in plain]


def test_texts_are_written_in_the_terms_of_the_field() -> None:
    found = {path.relative_to(ROOT).as_posix(): odd_phrases(path.read_text(encoding="utf-8")) for path in TEXTS}
    assert {name: phrases for name, phrases in found.items() if phrases} == {}


def test_odd_phrases_are_found_across_lines() -> None:
    assert odd_phrases("a list, one a\n    connected group") == ["one a connected group"]


LONGEST_MEAN = 25
"""Words of a sentence, on average."""


def test_sentences_of_the_readme_are_short() -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^([|#!<]| {4}).*$", "\n", text, flags=re.MULTILINE)
    sentences = [
        part.split() for part in re.split(r"(?<=[.:;])\s|\n\s*\n|^- |^\d+\. ", text, flags=re.MULTILINE) if part.strip()
    ]
    assert len(sentences) > 30
    assert sum(map(len, sentences)) / len(sentences) <= LONGEST_MEAN
