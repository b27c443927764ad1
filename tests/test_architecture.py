"""The direction of imports: a room may import the rooms below it, never its own neighbours, never those above."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "vggsfm_cli"
ROOT = Path(__file__).parents[1] / "src" / PACKAGE

STEPS = (
    {"errors", "__init__"},
    {"options"},
    {"geometry", "threads", "devices", "folders", "reading"},
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
