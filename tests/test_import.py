"""What an import loads, and who may import whom."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import skvibe

PACKAGE = Path(skvibe.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {
    "torch",
    "triton",
    "skorch",
    "igraph",
    "leidenalg",
    "pynndescent",
    "numba",
    "matplotlib",
    "ot",
    "kornia",
    "transformers",
    "sentence_transformers",
    "safetensors",
    "skops",
    "imblearn",
}
# The two columns meet only in the user's pipeline.
GRAPH_COLUMN = ("knn", "communities", "off_manifold", "filters", "_encode")
TORCH_COLUMN = (
    "transport",
    "posteriors",
    "em",
    "classifier",
    "trust",
    "whitening",
    "_batches",
    "_checkpoint",
    "_damped_system",
    "_device",
    "_fingerprint",
    "_fit_data",
    "_fitting",
    "_fused_kernels",
    "_fused_pass",
    "_parameters",
    "_prediction",
    "_publishing",
    "_narrow_product",
    "_normaliser",
    "_row_pass",
    "_row_sweep",
    "_semidual",
    "_settled_rows",
    "_training_state",
    "_trials",
)


def modules_after(code):
    """Names of all modules loaded by a fresh interpreter that runs ``code``."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{code}\nimport json, sys\nprint(json.dumps([*sys.modules]))",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    return set(json.loads(done.stdout))


def test_import_is_light():
    loaded = modules_after("import skvibe; dir(skvibe); skvibe.__version__")
    assert not loaded & HEAVY
    assert "skvibe" in loaded
    assert "skvibe.classifier" not in loaded


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("from skvibe import VIBEClassifier", HEAVY - {"torch", "skorch"}),
        ("from skvibe import OffManifoldFilter, OffManifoldSampler", HEAVY),
        ("import skvibe.datasets", HEAVY),
        ("import skvibe.metrics", HEAVY),
        ("import skvibe.model_selection", HEAVY),
    ],
)
def test_a_part_loads_only_what_it_needs(code, absent):
    assert not modules_after(code) & absent


def test_every_public_name_resolves():
    for name in skvibe.__all__:
        assert getattr(skvibe, name) is not None
    assert dir(skvibe) == sorted(skvibe.__all__)
    with pytest.raises(AttributeError, match="no attribute 'VIBEClasifier'"):
        skvibe.VIBEClasifier  # noqa: B018


def imports_at_module_level(path):
    """Full names of what a file imports when it is itself imported."""
    return {
        name
        for node in executed_on_import(ast.parse(path.read_text()).body)
        for name in imported_names(node)
    }


def executed_on_import(body):
    """Statements outside of functions and of ``if TYPE_CHECKING`` blocks."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        for part in ("body", "orelse", "finalbody"):
            yield from executed_on_import(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            yield from executed_on_import(handler.body)


def imported_names(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative import"
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def reached_from(name, graph):
    """Everything that importing a module imports, in any number of steps."""
    seen, todo = set(), [name]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        todo += graph.get(current, ())
    return seen


@pytest.fixture(scope="module")
def graph():
    return {module_name(path): imports_at_module_level(path) for path in FILES}


def columns(names):
    return [f"skvibe.{name}" for name in names if (PACKAGE / f"{name}.py").exists()]


def roots(names):
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("name", columns(GRAPH_COLUMN))
def test_graph_column_imports_no_torch(name, graph):
    reached = reached_from(name, graph)
    assert not roots(reached) & {"torch", "skorch"}
    assert not reached & set(columns(TORCH_COLUMN))


@pytest.mark.parametrize("name", columns(TORCH_COLUMN))
def test_torch_column_imports_no_graph(name, graph):
    reached = reached_from(name, graph)
    assert not roots(reached) & {"igraph", "leidenalg", "pynndescent"}
    assert not reached & (set(columns(GRAPH_COLUMN)) - {"skvibe._encode"})


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_optional_packages_are_imported_where_they_are_used(path):
    """None of them at module level, so that the rest works without them."""
    optional = HEAVY - {"torch", "skorch"}
    imported = imports_at_module_level(path)
    if path.name == "_fused_kernels.py":  # kernels alone, itself imported when used
        assert imported == {"triton", "triton.language"}
        return
    assert not roots(imported) & optional
    assert "skvibe._fused_kernels" not in imported


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_no_private_parts_of_scikit_learn(path):
    private = [
        name
        for node in ast.walk(ast.parse(path.read_text()))
        for name in imported_names(node)
        if name.startswith("sklearn")
        and any(p.startswith("_") for p in name.split("."))
    ]
    assert not private
