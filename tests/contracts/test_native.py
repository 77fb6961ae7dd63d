"""What of the sidecar is native code is what pyproject.toml says, and the working tree has none of it."""

import ast
import builtins
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import sidecar.leases.book

REPOSITORY = Path(__file__).resolve().parents[2]


def compiled() -> list[str]:
    """The modules that the wheel's build hook compiles."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    hook: dict[str, Any] = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
    found = {path for pattern in hook["include"] for path in REPOSITORY.glob(pattern.lstrip("/"))}
    assert all(any(REPOSITORY.glob(pattern.lstrip("/"))) for pattern in hook["include"]), (
        "each names something"
    )
    left_out = {REPOSITORY / pattern.lstrip("/") for pattern in hook["exclude"]}
    names = [path.relative_to(REPOSITORY) for path in found - left_out if path.name != "__init__.py"]
    return sorted(".".join(name.with_suffix("").parts) for name in names)


def test_all_of_it_or_nothing() -> None:
    """With the unpacked wheel in front each such module is native; in the working tree it is the source one reads."""
    files = {name: str(importlib.import_module(name).__file__) for name in compiled()}
    assert len(files) > 50
    native = {name for name, file in files.items() if not file.endswith(".py")}
    assert native in (set(), set(files))
    for name, file in files.items():
        assert native or Path(file) == REPOSITORY / f"{name.replace('.', '/')}.py"
    for path in (REPOSITORY / "sidecar").rglob("*"):
        assert path.suffix != ".so", "it would hide its source: see `make compile`"


def test_what_is_caught_has_a_name_of_its_own() -> None:
    """Mypyc takes a name in a function for one type: two `except … as error` of different types fail when they run."""
    twice = []
    for name in compiled():
        tree = ast.parse((REPOSITORY / f"{name.replace('.', '/')}.py").read_text())
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            caught: dict[str, str] = {}
            for handler in (node for node in ast.walk(function) if isinstance(node, ast.ExceptHandler)):
                if handler.name is not None and handler.type is not None:
                    kind = ast.unparse(handler.type)
                    if caught.setdefault(handler.name, kind) != kind:
                        twice.append(
                            f"{name}: {function.name} calls {caught[handler.name]} and {kind} {handler.name}"
                        )
    assert not twice


def test_a_class_inherits_from_no_builtin_that_native_code_can_not() -> None:
    """Found before a compiler is asked, which takes minutes: an error of ours is an Exception or a ValueError."""
    allowed = {"object", "Exception", "LookupError", "IndexError", "Warning", "UserWarning", "ValueError"}
    wrong = []
    for name in compiled():
        tree = ast.parse((REPOSITORY / f"{name.replace('.', '/')}.py").read_text())
        for made in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            bases = {ast.unparse(base) for base in made.bases}
            wrong += [f"{name}: {made.name}({base})" for base in bases & (set(dir(builtins)) - allowed)]
    assert not wrong


def test_servers_that_tests_start_are_of_the_same_kind() -> None:
    """A process started as tests start servers imports what the tests import."""
    ask = [sys.executable, "-c", "import sidecar.leases.book; print(sidecar.leases.book.__file__)"]
    done = subprocess.run(ask, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sidecar.leases.book.__file__
