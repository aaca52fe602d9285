"""The layout keeps its promises: which way imports go, what shared code may name, how long a module may be."""

import ast
import graphlib
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODELS = ("ifseg_jax", "lseg_jax")
PACKAGES = (*MODELS, "vlseg", "launch", "configs", "benchmarks")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
COMMANDS = ("train", "evaluate", "predict", "convert", "export", "pseudo_label", "verify")


def imports(module):
    """Modules of ours that a module imports, anywhere in it but for type checkers alone."""
    tree = ast.parse(FILES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body.clear()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & FILES.keys()) or {node.module}
            if inner - FILES.keys():
                found.add(node.module)
    return found & FILES.keys()


GRAPH = {module: imports(module) for module in FILES}


def test_no_import_cycles():
    graphlib.TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names one


def test_arrows_point_one_way():
    """Models use shared code, and shared code no model; configurations and launch files use no model's internals."""
    for module, used in GRAPH.items():
        package = module.partition(".")[0]
        others = {name for name in used if name.partition(".")[0] != package}
        if package in MODELS:
            assert all(name.startswith("vlseg") for name in others), module
        if package in ("vlseg", "launch", "configs"):
            assert not [name for name in others if name.startswith(MODELS)], module
        if package == "configs":
            assert not [name for name in used if name.startswith("configs")], module


@pytest.mark.parametrize("path", sorted((ROOT / "vlseg").rglob("*.py")), ids=lambda path: path.stem)
def test_shared_code_names_no_model(path):
    """Packages in comments only; systems also in docstrings, which cite them."""
    text = path.read_text()
    tree = ast.parse(text)
    documented = [
        node for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    docstrings = {line for node in documented for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            continue
        assert not re.search(r"ifseg_jax|lseg_jax", token.string), (token.start, token.string)
        if token.start[0] not in docstrings:
            assert not re.search(r"(?i)\b(ifseg|lseg|ofa)\b", token.string), (token.start, token.string)


@pytest.mark.parametrize("module", FILES)
def test_no_module_is_too_long(module):
    lines = len(FILES[module].read_text().splitlines())
    assert lines <= 400
    package, _, command = module.partition(".")
    if package in MODELS and command in COMMANDS:
        assert lines <= 25


def test_a_third_model_is_one_small_folder():
    """It trains, evaluates, predicts, exports and compiles (tests/toy/test_toy.py), and nothing else names it."""
    folder = ROOT / "tests/toy"
    assert sum(len(p.read_text().splitlines()) for p in folder.glob("*.py") if not p.stem.startswith("test_")) < 200
    assert not [module for module, path in FILES.items() if re.search(r"\btoy\b", path.read_text())]
