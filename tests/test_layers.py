"""The law of the layers: imports point down, each outside library has its one place, the top level is fixed.

Every import is read from the source: of `.py` files by their syntax tree, so in function bodies and under TYPE_CHECKING
too, of `.pyx` and `.pyi` files as well.
"""

from __future__ import annotations

import ast
import fnmatch
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import radiator

PACKAGE = Path(radiator.__file__).parent
ROOT = Path(__file__).parent.parent

LAYERS = ("cli", "server", "stomp", "broker", "store", "_speedups", "config", "message", "errors")
"""From the top; a module may import its own layer and those after it."""

KERNELS = {
    "radiator.stomp.frame_pure": {"radiator.stomp.grammar"},
    "radiator.store.file.record_pure": set(),
    "radiator.store.file.index_pure": set(),
    "radiator._speedups.frame": set(),
    "radiator._speedups.record": set(),
    "radiator._speedups.index": set(),
    "radiator._speedups.syncer": set(),
}
"""The kernels, and what each may import besides errors and message (constants only)."""

CHOOSERS = {
    "radiator.stomp.frame": {"frame"},
    "radiator.store.file.record": {"record"},
    "radiator.store.file.index": {"index"},
    "radiator.store.file.syncer": {"syncer"},
    "radiator.server.daemon": {"syncer"},
}
"""Who may import which compiled module."""

PRINTERS = {"radiator.cli.commands", "radiator.server.daemon"}
"""Who may ask which twin is in use, to say it."""

OUTSIDE = {
    "gevent": lambda module: module.startswith("radiator.server."),
    "ruamel": lambda module: module == "radiator.config.loader",
    "click": lambda module: module.startswith("radiator.cli."),
    "rich": lambda module: module.startswith("radiator.cli."),
}
"""The run-time dependencies and the modules that may import them; any other library is a mistake."""

NO_SIDE_EFFECTS = {"logging", "os", "pathlib", "select", "selectors", "signal", "socket", "threading", "time"}
"""What neither protocol nor broker may touch: the same input gives the same output, always."""

TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "CHANGES.rst",
    "LICENSE",
    "MANIFEST.in",
    "README.rst",
    "bench",
    "docs",
    "pyproject.toml",
    "radiator",
    "setup.py",
    "tests",
}

_PYX_IMPORT = re.compile(
    r"^\s*(?:from\s+(?P<source>[\w.]+)\s+c?import\s+(?P<names>[^#]+)|c?import\s+(?P<modules>[^#]+))"
)


def imports_of(source: str, *, cython: bool = False) -> Iterator[str]:
    """Every dotted name that `source` imports; `from a import b` gives a.b, which may be a module or a name in it."""
    if not cython:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"line {node.lineno}: a relative import"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        return
    # A list of names in parentheses may run over lines: join them before reading line by line.
    joined = re.sub(r"\([^()]*\)", lambda match: match[0][1:-1].replace("\n", " "), source)
    for line in joined.splitlines():
        match = _PYX_IMPORT.match(line)
        if match is None:
            continue
        for name in (match["names"] or match["modules"]).split(","):
            word = name.split()[0] if name.split() else ""
            if word:
                yield f"{match['source']}.{word}" if match["source"] else word


def modules() -> dict[str, list[str]]:
    """Every module of the package with what it imports; a `.pyx` and its `.pyi` count as one."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix not in (".py", ".pyx", ".pyi"):
            continue
        name = ".".join(("radiator", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        found.setdefault(name, []).extend(imports_of(path.read_text("utf-8"), cython=path.suffix == ".pyx"))
    return found


MODULES = modules()


def target(name: str) -> str:
    """The module that an imported dotted name means."""
    while name not in MODULES:
        name = name.rpartition(".")[0]
        assert name, "an import of radiator that names no module"
    return name


def layer(module: str) -> int:
    """The place in LAYERS; the package itself stands below all, its __main__ above all."""
    if module == "radiator":
        return len(LAYERS)
    if module == "radiator.__main__":
        return -1
    return LAYERS.index(module.split(".")[1])


def inside() -> list[tuple[str, str]]:
    """Every import of radiator by radiator, as pairs of modules."""
    return [
        (module, target(name))
        for module, names in MODULES.items()
        for name in names
        if name == "radiator" or name.startswith("radiator.")
    ]


def test_imports_point_down() -> None:
    wrong = [f"{module} imports {other}" for module, other in inside() if layer(other) < layer(module)]
    assert wrong == []


def test_the_lowest_modules_import_nothing_of_ours() -> None:
    lowest = {"radiator", "radiator.errors", "radiator.message", "radiator._speedups", "radiator.config.schema"}
    assert [pair for pair in inside() if pair[0] in lowest] == []


def test_only_the_command_line_reads_configurations() -> None:
    """The layers under it get a finished Config: they know the schema and how a name matches, no file and no word."""
    assert [
        pair
        for pair in inside()
        if pair[1].startswith("radiator.config.")
        and pair[1] not in ("radiator.config.schema", "radiator.config.destinations")
        and not pair[0].startswith(("radiator.cli.", "radiator.config."))
    ] == []


@pytest.mark.parametrize("kernel", sorted(set(KERNELS) & set(MODULES)))
def test_kernels_import_only_errors_and_message(kernel: str) -> None:
    allowed = {"radiator.errors", "radiator.message"} | KERNELS[kernel]
    assert {other for module, other in inside() if module == kernel} - allowed == set()


def test_compiled_modules_are_imported_by_their_choosers_only() -> None:
    wrong = [
        (module, other)
        for module, other in inside()
        if other.startswith("radiator._speedups.") and other.rpartition(".")[2] not in CHOOSERS.get(module, set())
    ]
    assert wrong == []
    asking = {module for module, other in inside() if other == "radiator._speedups"}
    assert asking - set(CHOOSERS) - PRINTERS == set()


def test_pure_twins_are_imported_by_their_choosers_only() -> None:
    wrong = [
        (module, other)
        for module, other in inside()
        if other.endswith("_pure") and module != other.removesuffix("_pure")
    ]
    assert wrong == []


def test_every_library_has_its_place() -> None:
    wrong = []
    for module, names in MODULES.items():
        for name in names:
            library = name.split(".")[0]
            if library in sys.stdlib_module_names or library in ("radiator", "cython", "cpython", "libc", "posix"):
                continue
            if library not in OUTSIDE or not OUTSIDE[library](module):
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_protocol_and_broker_touch_nothing_outside() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, names in MODULES.items()
        for name in names
        if name.split(".")[0] in NO_SIDE_EFFECTS
        and (module.startswith(("radiator.stomp", "radiator.broker")) or module in KERNELS)
        and module != "radiator._speedups.syncer"  # its whole purpose is a thread that writes
    ]
    assert wrong == []


def test_nobody_imports_by_name() -> None:
    """A module named by a string would slip through this file; the twins' policy alone does it."""
    found = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py*"))
        if path.suffix in (".py", ".pyx")
        and re.search(r"\b(import_module|__import__|exec|eval)\(", path.read_text("utf-8"))
    ]
    assert found in ([], ["_speedups/__init__.py"])


def test_the_top_level_is_fixed() -> None:
    if not (ROOT / ".gitignore").exists():
        pytest.skip("not in the source tree")
    ignored = [
        line.strip("/") for line in (ROOT / ".gitignore").read_text("utf-8").splitlines() if "/" not in line.strip("/")
    ]
    ignored += [".git", "PKG-INFO", "setup.cfg"]  # the last two are in an unpacked sdist
    found = {
        entry.name for entry in ROOT.iterdir() if not any(fnmatch.fnmatch(entry.name, pattern) for pattern in ignored)
    }
    assert found - TOP_LEVEL == set()
    assert [entry.name for entry in (ROOT / ".ci").iterdir()] == ["run"] if (ROOT / ".ci").exists() else True


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import a.b as c
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from radiator.server import daemon
def function():
    from d import (
        e, f as g
    )
"""
    expected = {"a.b", "typing.TYPE_CHECKING", "radiator.server.daemon", "d.e", "d.f"}
    assert set(imports_of(source)) == expected
    cython = """
cimport cython
from libc.stdint cimport uint64_t, int64_t as i
if x:
    from radiator.stomp cimport (
        a,
        b)
"""
    assert set(imports_of(cython, cython=True)) == {
        "cython",
        "libc.stdint.uint64_t",
        "libc.stdint.int64_t",
        "radiator.stomp.a",
        "radiator.stomp.b",
    }


def test_a_relative_import_is_refused() -> None:
    with pytest.raises(AssertionError, match="line 1: a relative import"):
        list(imports_of("from . import x"))
