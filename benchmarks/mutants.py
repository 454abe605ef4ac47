"""Mutation testing: small faults are put into the code, and the tests must notice.

For each module of `TARGETS` every mutant of the kinds in `mutations` is made (or, with
``--sample n``, n of them, drawn evenly without repetition by ``random.Random`` with
``--seed``), and the module's own tests are run on it. A mutant is *killed* if a test
fails, and *survives* if none does. Tests that take more than `PATIENCE` times the CPU
time of the unchanged module count as killed as well: the fault is noticed by its
slowness.

Starting Python, torch and pytest costs more than most of these tests, so they are
loaded once, and every mutant gets a fork of that process. Texts of errors and
warnings, docstrings and annotations are not mutated.

Run it with ``python benchmarks/mutants.py [module ...]``; the result goes to
``benchmarks/results/mutants.json``, where other modules' figures are kept.
"""

import argparse
import ast
import copy
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import resource
import signal
import sys
import time
import traceback

from _stamp import ROOT, stamp

RESULT = ROOT / "benchmarks" / "results" / "mutants.json"
PATIENCE = 3.0
_SLOW = (
    "extra_memory or with_pot or of_the_optimum "
    "or impossible or thousand_classes or accelerators_fixed or storage_does_not_matter"
)
# module -> its tests, and what of them to leave out
TARGETS = {
    "communities": (["tests/test_communities.py", "skvibe/communities.py"], ""),
    "_removed_rows": (["tests/test_removed_rows.py"], ""),
    "filters": (
        ["tests/test_filters.py"],
        "approximate or scikit_learn_checks or imbalanced or import_loads",
    ),
    "trust": (["tests/test_trust.py", "skvibe/trust.py"], ""),
    "planted": (["tests/test_planted.py", "skvibe/planted.py"], ""),
    "whitening": (["tests/test_whitening.py", "skvibe/whitening.py"], ""),
    "posteriors": (["tests/test_posteriors.py", "skvibe/posteriors.py"], ""),
    "transport": (["tests/test_transport.py"], _SLOW),
    "_semidual": (["tests/test_semidual.py", "tests/test_transport.py"], _SLOW),
    "_row_sweep": (["tests/test_row_pass.py", "tests/test_transport.py"], _SLOW),
    "_row_pass": (["tests/test_row_pass.py", "tests/test_transport.py"], _SLOW),
    "_settled_rows": (["tests/test_row_pass.py", "tests/test_transport.py"], _SLOW),
    "_narrow_product": (["tests/test_narrow_product.py"], ""),
    "_normaliser": (["tests/test_normaliser.py", "tests/test_posteriors.py"], ""),
    "knn": (["tests/test_knn.py"], "approximate"),
    "off_manifold": (["tests/test_off_manifold.py"], ""),
    "community_geometry": (
        ["tests/test_community_geometry.py", "skvibe/community_geometry.py"],
        "",
    ),
}

_COMPARE = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_BINARY = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


# -- mutants ---------------------------------------------------------------------------


def mutations(node):
    """What to put in a node's place: pairs of words and a function that changes it."""
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            yield "comparison", _set_op(i, _COMPARE[type(operator)]())
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _BINARY:
        yield "arithmetic", _set(op=_BINARY[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and/or", _set(op=other)
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
        yield "sign or not left out", lambda node: node.operand
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        yield "condition turned", lambda node: _with(node, test=_not(node.test))
    elif isinstance(node, ast.For):
        yield "no iteration", _set(iter=ast.Tuple([], ast.Load()))
    elif isinstance(node, ast.Break):
        yield "break to continue", lambda node: ast.Continue()
    elif isinstance(node, ast.Continue):
        yield "continue to break", lambda node: ast.Break()
    elif isinstance(node, ast.Return) and node.value is not None:
        yield "return None", _set(value=ast.Constant(None))
    if isinstance(node, ast.Expr | ast.AugAssign):
        yield "statement left out", lambda node: ast.Pass()


def _constants(node):
    value = node.value
    if isinstance(value, bool):
        yield "constant", _set(value=not value)
    elif isinstance(value, int | float):
        yield "constant + 1", _set(value=value + 1)
        if value:
            yield "constant / 2", _set(value=value / 2 if value % 2 else value // 2)
    elif isinstance(value, str):
        yield "text", _set(value=f"XX{value}")


def _not(test):
    return ast.UnaryOp(ast.Not(), test)


def _with(node, **fields):
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _set(**fields):
    return lambda node: _with(node, **fields)


def _set_op(i, operator):
    return lambda node: _with(node, ops=[*node.ops[:i], operator, *node.ops[i + 1 :]])


def sites(tree):
    """Nodes that may be mutated, in the order of the source."""
    skipped = set()
    for node in ast.walk(tree):
        skip = []
        if isinstance(node, ast.Raise):
            skip = [node.exc]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
            skip = [*node.args, *node.keywords]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skip = [node]  # docstrings
        elif isinstance(node, ast.AnnAssign):
            skip = [node.annotation]
        elif isinstance(node, ast.arg | ast.JoinedStr):
            skip = [node]
        elif isinstance(node, ast.FunctionDef):
            skip = [node.returns, *node.decorator_list]
        elif isinstance(node, ast.ClassDef):
            skip = node.decorator_list
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            skip = [node]
        for part in filter(None, skip):
            skipped.update(map(id, ast.walk(part)))
    return [
        node
        for node in ast.walk(tree)
        if id(node) not in skipped and any(True for _ in mutations(node))
    ]


def mutants(source):
    """Places of all mutants, in the order of the lines: number of a site, and kind."""
    found = [
        (node.lineno, i, kind)
        for i, node in enumerate(sites(ast.parse(source)))
        for kind in range(len(list(mutations(node))))
    ]
    return [place[1:] for place in sorted(found, key=lambda place: place[0])]


def make_mutant(source, i, kind):
    """One mutant: line, words, code of the line before and after, changed tree."""
    tree = ast.parse(source)
    node = sites(tree)[i]
    words, change = list(mutations(node))[kind]
    changed = ast.copy_location(change(node), node)
    _Replace(node, changed).visit(tree)
    ast.fix_missing_locations(tree)
    return {
        "line": node.lineno,
        "kind": words,
        "before": _short(node),
        "after": _short(changed),
        "tree": tree,
    }


class _Replace(ast.NodeTransformer):
    def __init__(self, old, new):
        self.old, self.new = old, new

    def visit(self, node):
        return self.new if node is self.old else self.generic_visit(node)


def _short(node):
    return ast.unparse(ast.fix_missing_locations(node)).splitlines()[0][:70]


# -- running ---------------------------------------------------------------------------


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a changed tree."""

    def __init__(self, name, path, tree):
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, self, origin=str(self.path))
        spec.has_location = True
        return spec

    def exec_module(self, module):
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)


def preload():
    """What every test needs, but nothing of the package itself."""
    for name in (
        "hypothesis.extra.numpy",
        "igraph",
        "leidenalg",
        "ot",
        "pandas",
        "pytest",
        "scipy.optimize",
        "sklearn.datasets",
        "sklearn.linear_model",
        "sklearn.neighbors",
        "sklearn.pipeline",
        "torch",
    ):
        __import__(name)
    import torch

    torch.set_num_threads(1)
    # Forks need not look through all that is loaded, nor copy it.
    gc.collect()
    gc.freeze()


def run_tests(target, tree, seconds, times=None):
    """Outcome of the tests of a module in a fork: "killed", "slow" or "survived".

    ``times`` is filled with the seconds of each test by the first run, and later ones
    begin with the quickest.
    """
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(here)
        _child(target, tree, seconds, times, there)
    os.close(there)
    with os.fdopen(here) as pipe:
        told = pipe.read()
    _, status, usage = os.wait4(child, 0)
    if told and times == {}:
        times.update(json.loads(told))
    used = usage.ru_utime + usage.ru_stime
    if os.WIFSIGNALED(status):
        slow = os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL, signal.SIGALRM)
        return ("slow" if slow else "killed"), used
    code = os.WEXITSTATUS(status)
    if code == 5:
        raise RuntimeError(f"no tests were found for {target}")
    return ("killed" if code else "survived"), used


class _Plugin:
    """Tests in the order of their duration; failing examples are not made smaller."""

    def __init__(self, times):
        self.times, self.spent = times or {}, {}

    def pytest_configure(self):
        # One failing example will do: the smallest takes hypothesis far longer.
        from hypothesis import Phase, settings

        phases = (Phase.explicit, Phase.generate)
        usual = settings.get_profile("repeatable")
        settings.register_profile("mutants", usual, phases=phases)
        settings.load_profile("mutants")

    def pytest_collection_modifyitems(self, items):
        items.sort(key=lambda item: self.times.get(item.nodeid, 0.0))

    def pytest_collectreport(self, report):
        if report.failed:
            os._exit(1)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            os._exit(1)  # what is left to do takes longer than most tests
        spent = self.spent.get(report.nodeid, 0.0)
        self.spent[report.nodeid] = spent + report.duration


def _child(target, tree, seconds, times, pipe):
    tests, left_out = TARGETS[target]
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 5))
        resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # For a mutant that waits, which costs no CPU time.
        signal.alarm(int(30 * seconds))
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            if not (stream and os.environ.get("MUTANTS_SHOW")):
                os.dup2(null, stream)
        name = f"skvibe.{target}"
        path = ROOT / "skvibe" / f"{target}.py"
        sys.meta_path.insert(0, _Finder(name, path, tree))
        import pytest

        arguments = [
            "-xq",
            "-pno:cacheprovider",
            "-pno:xdist",
            "--tb=no",
            "--assert=plain",
        ]
        if left_out:
            arguments += ["-k", f"not ({left_out})"]
        plugin = _Plugin(times)
        code = int(pytest.main([*arguments, *tests], plugins=[plugin]))
        if times == {}:
            os.write(pipe, json.dumps(plugin.spent).encode())
    except BaseException:
        traceback.print_exc()
        code = 3
    sys.stdout.flush()
    os._exit(code)


def examine(target, sample, seed=0):
    """Figures of one module."""
    source = (ROOT / "skvibe" / f"{target}.py").read_text()
    whole = ast.parse(source)
    times = {}
    outcome, used = run_tests(target, whole, 600, times)
    if outcome != "survived":
        raise RuntimeError(f"the tests of {target} fail without a mutation")
    made = mutants(source)
    chosen = made
    if sample and sample < len(made):
        places = range(len(made))
        chosen = [made[k] for k in sorted(random.Random(seed).sample(places, sample))]
    print(
        f"{target}: {len(made)} mutants, {len(chosen)} tried, tests take {used:.1f} s"
    )
    counts = {"killed": 0, "slow": 0, "survived": 0}
    survivors = []
    start = time.perf_counter()
    for place in chosen:
        mutant = make_mutant(source, *place)
        outcome, _ = run_tests(target, mutant.pop("tree"), PATIENCE * used + 5, times)
        counts[outcome] += 1
        if outcome == "survived":
            survivors.append(mutant)
            print(
                f"  {target}:{mutant['line']} {mutant['kind']}: "
                f"{mutant['before']}  ->  {mutant['after']}",
                flush=True,
            )
    share = 1 - counts["survived"] / len(chosen)
    print(f"{target}: {share:.1%} killed, {time.perf_counter() - start:.0f} s")
    return {
        "run": stamp(),
        "mutants": len(made),
        "tried": len(chosen),
        "seed": seed,
        **counts,
        "share_killed": share,
        "survivors": survivors,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=None, metavar="module")
    parser.add_argument("--sample", type=int, default=0, help="mutants a module")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--least", type=float, default=0.0, help="share that must die")
    args = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ["SCIPY_ARRAY_API"] = "1"
    # A mutant must not be written where the unchanged module is looked for.
    sys.dont_write_bytecode = True
    preload()
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for target in args.modules or TARGETS:
        results[target] = examine(target, args.sample, args.seed)
        RESULT.write_text(json.dumps(results, indent=1) + "\n")
    low = [name for name, r in results.items() if r["share_killed"] < args.least]
    if low:
        sys.exit(f"fewer than {args.least:.0%} of the mutants killed: {low}")


if __name__ == "__main__":
    main()
