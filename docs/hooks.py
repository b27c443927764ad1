"""What `make site` does: README.md becomes the first page, and links out of docs/ lead to the repository."""

import re
import tomllib
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))")
HOME = "index.md"


def on_config(config: Any) -> Any:
    """The address of the repository stands in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    config.repo_url = project["urls"]["Repository"]
    return config


def on_files(files: Files, config: Any) -> Files:
    """README.md is the first page."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, HOME, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links as the site needs them: within docs/ from page to page, elsewhere to the file in the repository."""
    path = page.file.src_uri
    source = PurePosixPath("README.md" if path == HOME else f"docs/{path}")

    def rewritten(match: re.Match[str]) -> str:
        target, anchor = match["target"], match["anchor"] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        place = normpath(source.parent / target)
        if place.startswith("docs/"):
            return relpath(place, "docs/" + path + "/..") + anchor
        if (ROOT / place).exists():
            return f"{config.repo_url}/blob/main/{place}{anchor}"
        return match[0]  # mkdocs says that it leads nowhere

    return LINK.sub(rewritten, markdown)
