"""The package as it is built and imported: the switch, the lists that must agree, what sdist and wheel hold."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import setuptools

import radiator
from radiator import _speedups

ROOT = Path(__file__).parent.parent
PACKAGE = Path(radiator.__file__).parent

in_source_tree = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="not in the source tree")
builds = pytest.mark.skipif(
    int(setuptools.__version__.split(".")[0]) < 77, reason=f"setuptools {setuptools.__version__} is older than 77"
)

BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == {blocked!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
"""


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environment},
    )


SHOW = "from radiator import _speedups; print(_speedups.TWIN, _speedups.COMPILED)"


@pytest.mark.parametrize("value", ["maybe", "", "REQUIRE", "1"])
def test_an_unknown_switch_is_an_error_at_import(value: str) -> None:
    done = python(SHOW, RADIATOR_SPEEDUPS=value)
    assert done.returncode == 1
    assert done.stderr.endswith(f"ValueError: RADIATOR_SPEEDUPS is {value!r}: it must be auto, require or off\n")


@in_source_tree
@pytest.mark.parametrize("value", ["maybe", "", "REQUIRE", "1"])
def test_an_unknown_switch_is_an_error_at_build(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADIATOR_SPEEDUPS", value)
    with pytest.raises(SystemExit, match=f"RADIATOR_SPEEDUPS is {value!r}: it must be auto, require or off"):
        runpy.run_path(str(ROOT / "setup.py"))


def test_off_never_looks_for_a_compiled_module() -> None:
    done = python(SHOW + "; import sys; print([n for n in sys.modules if n.startswith('radiator._speedups.')])",
                  RADIATOR_SPEEDUPS="off")  # fmt: skip
    assert (done.stdout, done.stderr) == ("pure False\n[]\n", "")


@pytest.mark.parametrize("module", _speedups.MODULES)
def test_all_compiled_modules_or_none(module: str) -> None:
    blocked = BLOCKER.format(blocked=f"radiator._speedups.{module}")
    done = python(blocked + SHOW, RADIATOR_SPEEDUPS="auto")
    assert (done.stdout, done.stderr) == ("pure False\n", "")
    done = python(blocked + SHOW, RADIATOR_SPEEDUPS="require")
    assert "ImportError: RADIATOR_SPEEDUPS=require, but the compiled modules are not all there" in done.stderr


def test_this_run_uses_the_twin_that_was_asked_for() -> None:
    value = os.environ.get("RADIATOR_SPEEDUPS", "auto")
    assert _speedups.TWIN in {"require": ("compiled",), "off": ("pure",)}.get(value, ("compiled", "pure"))


@in_source_tree
def test_the_lists_agree() -> None:
    captured: dict[str, Any] = {}
    original = setuptools.setup
    setuptools.setup = lambda **given: captured.update(given)
    try:
        names = runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = original
    assert names["MODULES"] == _speedups.MODULES
    assert names["SWITCH"] == _speedups.SWITCH
    assert {path.stem for path in (PACKAGE / "_speedups").glob("*.pyx")} == set(_speedups.MODULES)
    assert {path.stem for path in (PACKAGE / "_speedups").glob("*.pyi")} == set(_speedups.MODULES)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    folders = {path.parent.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("__init__.py")}
    assert project["tool"]["setuptools"]["packages"] == sorted(".".join(folder.parts) for folder in folders)


@in_source_tree
def test_the_version_is_told_in_the_changes() -> None:
    assert re.search(rf"^{re.escape(radiator.__version__)} \(", (ROOT / "CHANGES.rst").read_text("utf-8"), re.MULTILINE)


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree whose extensions are empty, so that building takes no time."""
    folder: Path = tmp_path_factory.mktemp("source") / "radiator-copy"
    ignored = shutil.ignore_patterns(
        ".venv", ".git", "*.so", "*.c", "__pycache__", "build", "dist", "*.egg-info", ".*_cache"
    )
    shutil.copytree(ROOT, folder, ignore=ignored)
    for path in (folder / "radiator" / "_speedups").glob("*.pyx"):
        path.write_text("# cython: language_level=3\n")
    return folder


def build(tree: Path, function: str, **environment: str) -> tuple[int, str, Path]:
    """Call the build backend in `tree`; exit code, error output and the folder of the result."""
    out = tree.parent / "-".join(("out", function, *environment.values())).replace("/", "_")
    out.mkdir()
    shutil.rmtree(tree / "build", ignore_errors=True)
    program = f"import setuptools.build_meta as backend; backend.{function}({str(out)!r})"
    settings = {key: value for key, value in os.environ.items() if key != "RADIATOR_SPEEDUPS"} | environment
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tree,
        env=settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr, out


@in_source_tree
@builds
def test_the_sdist_has_the_sources_and_nothing_generated(tree: Path) -> None:
    generated = tree / "radiator" / "_speedups" / "frame.c"
    generated.write_text("/* generated */")
    code, errors, out = build(tree, "build_sdist")
    generated.unlink()
    assert code == 0, errors
    with tarfile.open(next(out.iterdir())) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in _speedups.MODULES:
        assert {f"radiator/_speedups/{name}.pyx", f"radiator/_speedups/{name}.pyi"} <= names
    present = ("setup.py", "README.rst", "CHANGES.rst", "LICENSE", "tests/conftest.py", "tests/test_packaging.py",
               "docs/index.rst", "docs/conf.py", ".ci/run", "radiator/py.typed")  # fmt: skip
    assert set(present) <= names
    for folder in ("tests", "bench", "radiator", "docs"):
        for path in (tree / folder).rglob("*"):
            if path.suffix in (".py", ".pyx", ".pyi", ".rst") and "_build" not in path.parts:
                assert str(path.relative_to(tree)) in names
    assert [name for name in names if name.endswith((".c", ".so", ".html", ".pyc"))] == []


def contents(folder: Path) -> tuple[str, list[str]]:
    """The name of the one wheel in `folder` and what it holds."""
    wheel = next(folder.iterdir())
    with zipfile.ZipFile(wheel) as archive:
        return wheel.name, archive.namelist()


@in_source_tree
@builds
def test_without_a_compiler_the_wheel_is_pure(tree: Path) -> None:
    code, errors, out = build(tree, "build_wheel", CC="/bin/false")
    assert code == 0, errors
    _, names = contents(out)
    assert [name for name in names if name.endswith((".so", ".c", ".pyx"))] == []
    assert {"radiator/py.typed", "radiator/_speedups/frame.pyi", "radiator/stomp/frame_pure.py"} <= set(names)
    assert [name for name in names if name.startswith(("tests/", "bench/", "docs/"))] == []


@in_source_tree
@builds
def test_without_a_compiler_require_fails(tree: Path) -> None:
    code, errors, out = build(tree, "build_wheel", CC="/bin/false", RADIATOR_SPEEDUPS="require")
    assert code != 0
    assert "/bin/false" in errors
    assert list(out.glob("*.whl")) == []


@in_source_tree
@builds
def test_off_builds_a_wheel_for_every_machine(tree: Path) -> None:
    code, errors, out = build(tree, "build_wheel", RADIATOR_SPEEDUPS="off")
    assert code == 0, errors
    name, _ = contents(out)
    assert name.endswith("-py3-none-any.whl")


@in_source_tree
@builds
@pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="no C compiler")
def test_the_wheel_has_the_compiled_modules_and_no_sources(tree: Path) -> None:
    code, errors, out = build(tree, "build_wheel", RADIATOR_SPEEDUPS="require")
    assert code == 0, errors
    _, names = contents(out)
    built = {name.split("/")[-1].split(".")[0] for name in names if name.endswith(".so")}
    assert built == set(_speedups.MODULES)
    assert [name for name in names if name.endswith((".c", ".pyx"))] == []


def test_an_extension_older_than_its_source_is_found(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    conftest = request.config.pluginmanager.get_plugin(str(Path(__file__).parent / "conftest.py"))
    source, built = tmp_path / "frame.pyx", tmp_path / "frame.cpython-311-x86_64-linux-gnu.so"
    source.touch()
    assert conftest.stale_extensions(tmp_path) == []
    built.touch()
    os.utime(source, ns=(0, 1_000_000_000))
    os.utime(built, ns=(0, 1_000_000_000))
    assert conftest.stale_extensions(tmp_path) == []
    os.utime(source, ns=(0, 1_000_000_001))
    assert conftest.stale_extensions(tmp_path) == [f"{built} is older than frame.pyx"]
