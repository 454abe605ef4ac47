"""Figures of hostile data: drawn, and nothing in them but shapes and text."""

import base64
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from skvibe import VIBEClassifier, audit

XLINK = "{http://www.w3.org/1999/xlink}href"
# What matplotlib draws with; script, foreignObject, a, image of another place are not
# among them.
ELEMENTS = {
    *(
        "RDF",
        "Work",
        "Agent",
        "agent",
        "creator",
        "format",
        "metadata",
        "title",
        "type",
    ),
    *("clipPath", "defs", "g", "image", "linearGradient", "marker", "stop", "style"),
    *("circle", "ellipse", "line", "path", "polygon", "polyline", "rect"),
    *("svg", "text", "tspan", "use"),
}
HOSTILE = (
    "</style></svg><script>alert(1)</script>",
    "$\\frac{",
    "\\input{/etc/passwd} $$",
    "_]]>&xxe;<!ENTITY x SYSTEM 'file:///etc/passwd'>",
    "\x00\x08\ud800\u202e",
    "a" * 5000,
)


@pytest.fixture(scope="module")
def page():
    rng = np.random.default_rng(0)
    codes = np.arange(240) % len(HOSTILE)
    X = 9 * np.eye(len(HOSTILE), 8)[codes] + rng.normal(size=(240, 8))
    y = np.array(HOSTILE, dtype=object)[codes]
    y[:9] = HOSTILE[0]
    vibe = VIBEClassifier(max_iter=30, random_state=0)
    names = [HOSTILE[i % len(HOSTILE)] for i in range(8)]
    found = audit(X, y, text=list(y), estimator=vibe, feature_names=names)
    return found.to_html(title=HOSTILE[0])


def test_figures_hold_shapes_and_text_only(page):
    images = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", page)
    assert len(images) == 4
    for image in images:
        svg = base64.b64decode(image)
        assert b"<!ENTITY" not in svg
        for element in ElementTree.fromstring(svg).iter():
            name = element.tag.rpartition("}")[2]
            assert name in ELEMENTS
            assert not any(key.lower().startswith("on") for key in element.attrib)
            address = element.get(XLINK, "") + element.get("href", "")
            assert address == "" or address.startswith(("#", "data:image/png;"))


def test_the_page_has_its_own_script_only(page):
    assert page.count("<script") == 2
    assert page.count("<svg") == 0  # drawn as images, in which no script would run
    assert re.search(r"\son[a-z]+\s*=\s*[\"']", page.split("<script")[0]) is None
