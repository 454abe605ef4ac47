"""The pages of the documentation: their programs run, their links lead somewhere."""

import importlib
import inspect
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md")])
# Pages whose programs need nothing but the package; on the others they need a
# pretrained model, files of the reader's, or are run by benchmarks/newcomer_walk.py.
RUNNABLE = ("README.md", "index.md", "getting_started.md", "detecting.md")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
MODULES = ("attacks", "displays", "encoders")


def named(pages):
    return [pytest.param(page, id=page.name) for page in pages]


# True of these data: class 0 holds more poison than rows of its own.
@pytest.mark.filterwarnings("ignore:TriggerFilter suspects more than half")
@pytest.mark.slow
@pytest.mark.parametrize("page", named(page for page in PAGES if page.name in RUNNABLE))
def test_programs_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for program in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(program, page.name, "exec"), names)
    plt.close("all")
    assert names


@pytest.mark.parametrize("page", named(PAGES))
def test_links_of_a_page_lead_to_files(page):
    for target in LINK.findall(page.read_text()):
        # Pages that exist once the site is built.
        if target.startswith(("http", "auto_examples/", "api/generated/")):
            continue
        file = page.parent / target
        assert file.exists() or file.with_suffix(".rst").exists(), target


def test_every_public_name_is_in_the_reference():
    listed = set((DOCS / "api" / "index.rst").read_text().split())
    package = importlib.import_module("skvibe")
    assert set(package._PUBLIC) <= listed
    for module in MODULES:
        public = importlib.import_module(f"skvibe.{module}").__all__
        assert {f"{module}.{name}" for name in public} <= listed


def documented():
    """Full names of what the reference lists, and of their public methods."""
    names = []
    for line in (DOCS / "api" / "index.rst").read_text().splitlines():
        if not re.fullmatch(r"   [A-Za-z_][\w.]*", line):
            continue
        name = f"skvibe.{line.strip()}"
        names.append(name)
        module, _, last = name.rpartition(".")
        found = getattr(importlib.import_module(module), last)
        if inspect.isclass(found):
            # Those of this package: scikit-learn and torch document their own.
            names += [
                f"{name}.{method}"
                for method in dir(found)
                if not method.startswith("_") and is_ours(getattr(found, method))
            ]
    return names


def is_ours(method):
    return callable(method) and getattr(method, "__module__", "").startswith("skvibe")


def ignored_checks():
    """The checks that docs/conf.py leaves out, and whom it leaves out."""
    conf = (DOCS / "conf.py").read_text()
    checks = set(re.findall(r'^    "([A-Z]{2}\d\d)",', conf, re.MULTILINE))
    excluded = re.search(r"numpydoc_validation_exclude = {(.*?)}", conf, re.DOTALL)[1]
    return checks, re.findall(r'r"(.*?)"', excluded)


def test_numpydoc_finds_no_fault_in_the_reference():
    from numpydoc.validate import validate

    ignored, excluded = ignored_checks()
    names = [
        name
        for name in documented()
        if not any(re.search(pattern, name) for pattern in excluded)
    ]
    assert len(names) > 100
    faults = [
        f"{name}: {code} {words}"
        for name in names
        for code, words in validate(name)["errors"]
        # GL08, no docstring at all, is left out there for attributes only.
        if code not in ignored or code == "GL08"
    ]
    assert faults == []


def test_every_attack_is_on_its_page():
    page = (DOCS / "attacks.md").read_text()
    attacks = set(importlib.import_module("skvibe.attacks").__all__)
    assert [name for name in attacks - {"PoisonedData"} if name not in page] == []


@pytest.mark.parametrize("example", named(sorted((ROOT / "examples").glob("*.py"))))
def test_examples_compile_and_say_what_they_are(example):
    tree = compile(example.read_text(), example.name, "exec")
    assert tree.co_consts[0].strip()
