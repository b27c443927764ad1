"""The direction of imports: a room may import the rooms below it, never its own neighbours, never those above.

Also that a reconstruction does without the laboratory, and the benchmarks without the tests.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

PACKAGE = "vggsfm_cli"
ROOT = Path(__file__).parents[1] / "src" / PACKAGE

STEPS = (
    {"errors", "__init__"},
    {"options"},
    {"geometry", "threads", "devices", "systems", "reading"},
    {"folders"},
    {"config_file"},
    {"scene", "nn"},
    {"result"},
    {"clock"},
    {"io", "colmap", "synthetic", "visualization", "report"},
    {"bundle_adjustment"},
    {"tracking", "camera_estimation", "triangulation"},
    {"model"},
    {"mapping", "retrieval", "memory"},
    {"recipes"},
    {"checkpoints", "pipeline"},
    {"sequence", "export"},
    {"job"},
    {"batch"},
    {"evaluation"},
    {"training"},
    {"cli"},
    {"__main__"},
)
STEP_OF = {room: step for step, rooms in enumerate(STEPS) for room in rooms}

PAGE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """Cells of the rows of the first table below a heading of the page."""
    rows = re.findall(r"^\| (.*) \|$", PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0], re.MULTILINE)
    return [row.split(" | ") for row in rows[2:]]


def test_the_page_lists_the_steps() -> None:
    rows = [set(re.findall(r"`(\w+)`", packages)) for packages, _ in table("Packages and imports")]
    assert rows == list(reversed(STEPS))


def test_the_arrows_of_the_page_are_the_imports() -> None:
    base = set().union(*STEPS[: STEP_OF["clock"] + 1])
    drawn: dict[str, set[str]] = {}
    for room, others in re.findall(r"^(\w+) +--> (.*(?:\n .*)*)", PAGE, re.MULTILINE):
        drawn[room] = set(re.findall(r"\w+", others))
    found: dict[str, set[str]] = {}
    for path in FILES:
        room = room_of(path)
        found[room] = found.get(room, set()) | (rooms_imported(path) - base - {room})
    found = {room: others for room, others in found.items() if others and room != "__main__" and room not in base}
    assert drawn == found


def test_the_functions_of_the_page_are_in_their_files() -> None:
    rows = table("From a photograph to a model")
    assert len(rows) > 10
    for _, functions, files, _ in rows:
        text = "".join((ROOT / name).read_text() for name in re.findall(r"`([\w/]+\.py)`", files))
        for name in re.findall(r"`([\w.]+)`", functions):
            assert f"def {name.split('.')[-1]}(" in text, name


DOORS = {
    "pycolmap": ("colmap",),
    "huggingface_hub": ("checkpoints",),
    "typer": ("cli",),
    "rich": ("cli",),
    "ray": ("batch/ray_",),
    "theseus": ("bundle_adjustment/theseus_",),
    "PIL": ("io", "visualization"),
    "cv2": ("io", "visualization"),
    "av": ("io/video",),
}
"""Third parties and the only places that may import them."""

FILES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules a file imports, also inside functions; not those for type checkers only."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending.extend(node.orelse)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            pending.extend(ast.iter_child_nodes(node))


def rooms_imported(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imports(path) if name.startswith(f"{PACKAGE}.")}
    return {
        name if name in STEP_OF or (ROOT / name).exists() or (ROOT / f"{name}.py").exists() else "__init__"
        for name in names
    }


def test_every_room_has_a_step() -> None:
    assert {room_of(path) for path in FILES} <= set(STEP_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    wrong = {other for other in rooms_imported(path) if other != room and STEP_OF[other] >= STEP_OF[room]}
    assert not wrong, f"{room} may not import {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_third_parties_have_one_door(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    for name in {name.split(".")[0] for name in imports(path)} & set(DOORS):
        assert place.startswith(DOORS[name]), f"{name} is imported in {place}; its door is {' or '.join(DOORS[name])}"


def test_errors_know_nothing() -> None:
    assert not rooms_imported(ROOT / "errors.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_module_keeps_to_itself(path: Path) -> None:
    names = [name for name in imports(path) if name.startswith(f"{PACKAGE}.")]
    assert not [name for name in names if any(part.startswith("_") and part[-2:] != "__" for part in name.split("."))]


WITHOUT_FACE = {
    "geometry": "a library of functions, whose modules are imported whole",
    "bundle_adjustment": "one of its solvers needs theseus, which takes long to import",
    "batch": "a pool of workers needs ray, which is optional",
    "visualization": "pages and pictures need packages that most commands do without",
    "io": "videos need av, which is optional",
    "colmap": "importing pycolmap changes signal handlers; one of its modules is named as a function in it",
    "synthetic": "modules and functions share names",
    "evaluation": "modules offer functions of one name",
    "training": "a task is imported with what it trains only",
    "cli": "a command is imported when it is called",
}
"""Rooms whose files are still imported one by one, with the reason; the others are imported through their face."""


def inner_names(path: Path) -> Iterator[str]:
    """Names that a file takes out of a file within another room, not through its face; whole modules may be taken."""
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != PACKAGE or len(parts) <= 3 or parts[1] in {room_of(path), *WITHOUT_FACE}:
            continue
        if not (ROOT.parent / Path(*parts)).with_suffix(".py").exists():
            yield name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_rooms_are_imported_through_their_face(path: Path) -> None:
    assert not list(inner_names(path))


def test_rooms_without_face_are_rooms() -> None:
    assert set(WITHOUT_FACE) <= {path.name for path in ROOT.iterdir() if path.is_dir()}


LABORATORY = {"synthetic", "training", "evaluation"}
"""Rooms that make, train and measure; no reconstruction needs them."""

MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES
}


def reached(starts: Iterable[str]) -> set[str]:
    """Modules of the package that these ones import, directly or not, also inside functions."""
    found: set[str] = set()
    pending = list(starts)
    while pending:
        module = pending.pop()
        if module in found:
            continue
        found.add(module)
        for name in imports(MODULES[module]):
            parts = name.split(".")
            prefixes = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
            pending.extend(prefixes & set(MODULES))
    return found


def test_a_reconstruction_needs_no_laboratory() -> None:
    starts = [f"{PACKAGE}.{name}" for name in ("pipeline", "job", "cli.reconstruct", "cli.batch")]
    starts += [name for name, path in MODULES.items() if room_of(path) in {"sequence", "batch"}]
    modules = reached(starts)
    assert f"{PACKAGE}.mapping.mapper" in modules  # the way down is followed
    assert not {name for name in modules if room_of(MODULES[name]) in LABORATORY}


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
HELPERS = {path.stem for path in Path(__file__).parent.rglob("*.py")} - {path.stem for path in BENCHMARKS.rglob("*.py")}
"""Modules that only the folder of tests has."""


@pytest.mark.parametrize(
    "path", sorted(BENCHMARKS.rglob("*.py")), ids=lambda path: path.relative_to(BENCHMARKS).as_posix()
)
def test_benchmarks_import_no_tests(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & (HELPERS | {"tests"})
