"""The audit as one self-contained web page.

The rows come from whoever poisoned the data, so nothing of them is trusted: static
parts are escaped here, the table is written by the script with ``textContent`` from
JSON in which no tag can end, and the page's own policy forbids every other script and
all network access.
"""

import base64
import hashlib
import html
import json
from collections import Counter
from importlib.resources import files
from string import Template

import numpy as np

from skvibe._version import __version__
from skvibe.report.thumbnails import thumbnail

_LONGEST_TEXT = 600
# Bytes of rows in the page; figures and the rest stay below one megabyte.
_ROW_BUDGET = 11_000_000
_HOW = (
    (
        "Score",
        "How much better another label explains a row than the one given, from 0 to 1. "
        "Above 0.5 another label is more probable. Rows removed by a filter have 1.",
    ),
    (
        "Inferred and predicted label",
        "Inferred: found in training, from the features and the label given together; "
        "for a removed row, the prediction. Predicted: what the classifier says about "
        "the features alone.",
    ),
    (
        "drop",
        "A filter removed the row: it belongs to a group that one trigger seems to "
        "have planted. Leave it out of training.",
    ),
    (
        "relabel",
        "Inference and prediction agree on another label, at least nine times as "
        "probable as the one given.",
    ),
    (
        "review",
        "Suspect, but less clearly: often an honest borderline case. Look at it.",
    ),
    (
        "Nearest trusted row",
        "The most similar row (cosine) that is not suspect, to compare with.",
    ),
)


def render_page(audit, *, title="skvibe audit", figures=True):
    """The page as text.

    Parameters
    ----------
    audit : Audit
        The verdict.
    title : str, default="skvibe audit"
        Heading of the page.
    figures : bool, default=True
        Draw the figures, for which matplotlib is needed.

    Returns
    -------
    str
        HTML.
    """
    style, script = _asset("report.css"), _asset("report.js")
    data = suspect_data(audit)
    return Template(_asset("template.html")).substitute(
        policy=_policy(style, script),
        title=html.escape(title),
        meta=html.escape(_meta(audit)),
        style=style,
        tiles=_tiles(audit),
        summary=_summary(audit),
        notes=_notes(audit),
        table_hint=html.escape(_table_hint(audit, len(data["row"]))),
        classes=_class_table(audit),
        figures=_figures(audit, figures),
        how=_how(),
        data=safe_json(data),
        script=script,
    )


def safe_json(value):
    """JSON that can stand inside a script element: no ``<``, ``>`` or ``&`` in it.

    Parameters
    ----------
    value : object
        What `json.dumps` takes.

    Returns
    -------
    str

    Examples
    --------
    >>> from skvibe.report.page import safe_json
    >>> print(safe_json(["</script>"]))
    ["\\u003c/script\\u003e"]
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    # A lone surrogate has no UTF-8 form.
    return text.encode("utf-8", "replace").decode("utf-8")


def suspect_data(audit, *, budget=_ROW_BUDGET):
    """The suspect rows by column, the most suspect first, as many as fit.

    Parameters
    ----------
    audit : Audit
        The verdict.
    budget : int
        Largest number of bytes of their texts, thumbnails and reasons.

    Returns
    -------
    dict
        Columns of equal length, names for coded columns, and the neighbours.
    """
    rows, media = _fitting_rows(audit, budget)
    nearest = audit.nearest_trusted_rows[rows]
    neighbours = np.unique(nearest[nearest >= 0])
    place = np.where(nearest >= 0, np.searchsorted(neighbours, nearest), -1)
    reasons, reason = _encode(audit.reasons(rows))
    filters, removed = _encode(audit.removed_by[rows].tolist())
    actions, action = _encode(audit.actions[rows].tolist())
    data = {
        "classes": [str(label) for label in audit.classes.tolist()],
        "filters": filters,
        "actions": actions,
        "reasons": reasons,
        "row": rows.tolist(),
        "given": _codes(audit, audit.given_labels[rows]),
        "clean": _codes(audit, audit.clean_labels[rows]),
        "predicted": _codes(audit, audit.predicted_labels[rows]),
        "score": np.round(audit.poison_scores[rows], 4).tolist(),
        "removed": removed,
        "action": action,
        "reason": reason,
        "nearest": place.tolist(),
        "neighbours": {
            "row": neighbours.tolist(),
            "given": _codes(audit, audit.given_labels[neighbours]),
        },
    }
    if audit._text is not None:
        data["text"] = [media.text(i) for i in rows.tolist()]
        data["words"] = sorted({word for g in audit.groups for word, _, _ in g.words})
        data["neighbours"]["text"] = [media.text(i) for i in neighbours.tolist()]
    if audit._images is not None:
        data["images"] = media.images
        data["thumbs"] = [media.thumb(i) for i in rows.tolist()]
        data["neighbours"]["thumbs"] = [media.thumb(i) for i in neighbours.tolist()]
    return data


class _Media:
    """Texts and thumbnails of rows, each once, and the bytes they take."""

    def __init__(self, audit):
        self.audit = audit
        self.images: list[str] = []
        self.size = 0
        self._texts: dict[int, str] = {}
        self._places: dict[int, int] = {}

    def add(self, i):
        if self.audit._text is not None and i not in self._texts:
            self._texts[i] = _shorten(self.audit._text[i])
            self.size += len(self._texts[i].encode("utf-8", "replace")) + 3
        if self.audit._images is not None and i not in self._places:
            self._places[i] = len(self.images)
            self.images.append(thumbnail(self.audit._images[i]))
            self.size += len(self.images[-1]) + 3

    def text(self, i):
        return self._texts[i]

    def thumb(self, i):
        return self._places[i]


def _fitting_rows(audit, budget):
    media, rows = _Media(audit), audit.suspect_order()
    for count, i in enumerate(rows.tolist()):
        media.add(i)
        near = int(audit.nearest_trusted_rows[i])
        if near >= 0:
            media.add(near)
        # About sixty bytes of codes and numbers a row.
        if media.size + 60 * count > budget:
            return rows[: count + 1], media
    return rows, media


def _shorten(text):
    text = str(text)
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def _encode(values):
    """Different values in the order met, and the place of each."""
    names = list(dict.fromkeys(values))
    place = {name: code for code, name in enumerate(names)}
    return names, [place[value] for value in values]


def _codes(audit, labels):
    return np.searchsorted(audit.classes, labels).tolist()


def _asset(name):
    return files("skvibe.report").joinpath(name).read_text(encoding="utf-8")


def _policy(style, script):
    """Only this style and this script, images from within, no network."""

    def digest(text):
        code = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        return f"'sha256-{code}'"

    return (
        f"default-src 'none'; img-src data:; style-src {digest(style)}; "
        f"script-src {digest(script)}; base-uri 'none'; form-action 'none'"
    )


def _meta(audit):
    steps = getattr(audit.estimator, "steps", [("", audit.estimator)])
    names = " → ".join(type(step).__name__ for _, step in steps)
    return (
        f"{len(audit.given_labels):,} rows, {len(audit.classes)} classes. {names}, "
        f"threshold {audit.threshold:g}. skvibe {__version__}."
    )


def _tiles(audit):
    counts = Counter(audit.actions.tolist())
    planted = sum(group.n_planted for group in audit.groups)
    tiles = [
        (len(audit.given_labels), "rows", ""),
        (int(audit.is_suspect.sum()), "suspect", ""),
        (planted, "look planted", "alarm" if planted else ""),
        *(
            (counts[action], f"to {action}", "")
            for action in ("drop", "relabel", "review")
        ),
    ]
    items = "".join(
        f'<li class="{kind}"><b>{number:,}</b>{name}</li>'
        for number, name, kind in tiles
    )
    return f'<ul class="tiles">{items}</ul>'


def _summary(audit):
    if not audit.groups:
        return f"<p>{html.escape(audit.summary())}</p>"
    items = "".join(_finding(group) for group in audit.groups)
    first = html.escape(audit.summary().splitlines()[0])
    return f'<p>{first}</p><ul class="findings">{items}</ul>'


def _finding(group):
    first, *others = [html.escape(sentence) for sentence in group.sentences()]
    if group.evidence:
        first = f"<strong>{first}</strong>"
    kind = "planted" if group.evidence else "other"
    return f'<li class="{kind}">{" ".join([first, *others])}</li>'


def _notes(audit):
    return "".join(
        f'<p class="note">Note: {html.escape(note)}</p>' for note in audit.notes
    )


def _table_hint(audit, n_shown):
    total = int(audit.is_suspect.sum())
    text = "Click a heading to sort, a text to see all of it."
    if n_shown < total:
        text += (
            f" This page holds the {n_shown:,} most suspect of {total:,} suspect rows; "
            "Audit.to_csv writes all."
        )
    return text


def _class_table(audit):
    lines = []
    for label in audit.classes.tolist():
        own = audit.given_labels == label
        counts = Counter(audit.actions[own].tolist())
        suspects = int((own & audit.is_suspect).sum())
        share = suspects / max(int(own.sum()), 1)
        cells = "".join(
            f'<td class="number">{number:,}</td>'
            for number in (
                int(own.sum()),
                suspects,
                *(counts[action] for action in ("drop", "relabel", "review")),
            )
        )
        lines.append(
            f'<tr><th scope="row">{html.escape(str(label))}</th>{cells}'
            f'<td class="number">{100 * share:.1f} %</td>'
            f'<td><meter min="0" max="1" value="{share:.4f}"></meter></td></tr>'
        )
    heads = ("rows", "suspect", "drop", "relabel", "review", "share")
    head = "".join(f'<th scope="col" class="number">{name}</th>' for name in heads)
    return (
        f'<table id="classes"><thead><tr><th scope="col">given label</th>{head}'
        f'<th scope="col"></th></tr></thead><tbody>{"".join(lines)}</tbody></table>'
    )


def _figures(audit, wanted):
    if not wanted:
        return "<p>Drawn without figures.</p>"
    from skvibe.report.figures import draw_figures

    items = "".join(
        f'<figure><img src="{address}" alt="{html.escape(alt)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for address, alt, caption in draw_figures(audit)
    )
    return f'<div class="figures">{items}</div>'


def _how():
    items = "".join(
        f"<dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd>" for a, b in _HOW
    )
    return f"<dl>{items}</dl>"
