"""The layout of the house: no circle between modules, no import upwards between rooms.

A room is a folder of the package (or a file at its top); its floor is the line of ``FLOORS`` that names it, and it imports
from its own room and from floors below. To add a room, name it on the lowest floor from which it reaches all it needs; to
add a file to a room, do nothing here. Imports are read from the source, those inside of functions included; only what is
for type checkers alone may point anywhere.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

import retrieval

PACKAGE = Path(retrieval.__file__).parent

# From the ground up. A room may import from any line above its own in this list, never from its own line's neighbours.
FLOORS = [
    ["errors", "version"],
    ["messages", "system", "pooling"],
    ["files", "checkup"],
    ["pictures", "ranking", "models"],
    ["datasets", "views"],
    ["engines"],
    ["describe"],
    ["gallery"],
    ["evaluation", "parts"],
    ["training", "benchmarks", "backends", "resident"],
    ["web"],
    ["cli"],
]
FACE = "retrieval"  # __init__ and __main__: they name what is at the top, lazily


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else FACE


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("retrieval", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(tree: ast.AST, known: dict[str, Path], *, lazily: bool) -> set[str]:
    """Modules of this package that a module imports; ``lazily``: also those inside of functions."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not lazily:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.update(name for name in (whole if whole in known else node.module,) if name in known)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def _arrows() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(parsed(path), known, lazily=True) for name, path in known.items()}


def graph() -> dict[str, set[str]]:
    """For each module those that it imports, inside of functions too. The caller may change it."""
    return {name: set(targets) for name, targets in _arrows().items()}


def upward(arrows: dict[str, set[str]], floors: list[list[str]]) -> list[str]:
    floor = {name: number for number, names in enumerate(floors) for name in names}
    return sorted(
        f"{source} -> {target}"
        for source, targets in arrows.items()
        for target in targets
        if room(source) not in (FACE, room(target)) and floor[room(target)] >= floor[room(source)]
    )


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """A circle of imports, as the modules along it; empty where there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(arrows.get(name, ())):
            if found := walk(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(arrows) if (found := walk(name, []))), [])


def test_every_room_has_a_floor():
    rooms = {room(name) for name in modules()} - {FACE}
    named = [name for names in FLOORS for name in names]
    assert sorted(named) == sorted(set(named))
    assert rooms == set(named)


def test_imports_point_downwards():
    assert upward(graph(), FLOORS) == []


def test_imports_form_no_circle():
    arrows = graph()
    arrows.pop("retrieval")  # the face names modules only when it is asked for them
    assert circle(arrows) == []


@pytest.mark.parametrize(
    ("source", "target"),
    [("retrieval.models.spec", "retrieval.gallery.gallery"), ("retrieval.ranking.geometry", "retrieval.models.spec")],
)
def test_an_arrow_turned_back_is_noticed(source, target):
    arrows = graph()
    arrows[source].add(target)
    assert upward(arrows, FLOORS) == [f"{source} -> {target}"]


def test_a_circle_inside_a_room_is_noticed():
    arrows = graph()
    arrows["retrieval.gallery.opened"].add("retrieval.gallery.gallery")
    arrows.pop("retrieval")
    assert circle(arrows)


def test_imports_inside_of_functions_count(tmp_path):
    code = "def f():\n    from retrieval.gallery import gallery\n"
    assert imports(ast.parse(code), modules(), lazily=True) == {"retrieval.gallery.gallery"}
    assert imports(ast.parse(code), modules(), lazily=False) == set()


def test_rooms_that_promise_to_know_no_torch():
    """Files whose first words say that they know no torch are as good as their word."""
    for name, path in modules().items():
        tree = parsed(path)
        words = " ".join((ast.get_docstring(tree) or "").lower().split())
        if "knows no torch" in words or "know no torch" in words:
            heavy = [
                n
                for n in ast.walk(tree)
                if isinstance(n, ast.Import) and any(a.name.split(".")[0] == "torch" for a in n.names)
            ]
            heavy += [
                n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and (n.module or "").split(".")[0] == "torch"
            ]
            assert not heavy, name
