"""From the results of the defence table to text, docs and figure."""

from collections import defaultdict

import _stamp
import numpy as np

# Safe for colour-blind readers (Okabe and Ito); skvibe's rows in the warm colours.
_STYLE = {
    "none": ("#000000", "X"),
    "oracle": ("#000000", "*"),
    "cleanlab": ("#56B4E9", "o"),
    "spectral": ("#56B4E9", "s"),
    "activation": ("#56B4E9", "^"),
    "spectre": ("#0072B2", "s"),
    "knn": ("#0072B2", "o"),
    "abl": ("#009E73", "v"),
    "cbd": ("#009E73", "<"),
    "dbd": ("#009E73", ">"),
    "vibe": ("#E69F00", "o"),
    "manifold+vibe": ("#E69F00", "D"),
    "trigger+vibe": ("#D55E00", "o"),
    "manifold+trigger+vibe": ("#D55E00", "D"),
}
# What is compared with the peers cell by cell, and what counts as a difference.
_WHOLE, _MARGIN = "manifold+trigger+vibe", 0.005
_HEADER = (
    f"{'method':27}{'ACC':>6}{'worst':>7}{'ASR':>8}{'worst':>7}{'control':>9}"
    f"{'AUROC':>7}{'recov.':>8}{'time':>8}{'cells':>7}"
)
_INTRO = """\
# Defences against backdoor attacks

This page is written by a script from the results in
[`benchmarks/results`](../benchmarks/results); to make it again:

```
python benchmarks/defence_table.py            # about an hour; resumable
python benchmarks/defence_table.py --report   # this page and its figure
python benchmarks/defence_table.py --quick    # a few cells in a few minutes
```

Every cell is a data set, an attack, a target class, a share of poisoned rows and a
seed. **ACC** is the accuracy on clean test rows. **ASR**, attack success rate, is the
share of triggered test rows of the other classes that are predicted as the target.
**Control** is the same share for a model trained on the clean data (the clean oracle):
an ASR near its control is no success, an ASR means nothing without it. Medians are over
targets and seeds, the worst is the least favourable of the same cells. Each peer is
followed by the same `LogisticRegression(C=10, max_iter=1000)`; all of skvibe runs at
its defaults, the same for every cell.

† is told the true share of poisoned rows, which nobody knows in practice.

Definitions: `benchmarks/cells.py` for the data, `benchmarks/peers.py` for the peers.
ABL, CBD and DBD are here what they can be on frozen features, a softmax head; their
published figures, from whole networks trained end to end, are another matter. The
*small target class* of TREC has 86 rows of its own: from a rate of 2 % the poison
outnumbers it, and its label means the trigger more often than the class.
"""


def plain_table(records, methods):
    """The table as text: one block for each group and rate."""
    lines = []
    for (group, rate), block in _by(records, "group", "rate").items():
        sizes = sorted({record["n_asr"] for record in block})
        lines += ["", f"{group}, {rate:.1%} poison (ASR over {_range(sizes)} rows)"]
        lines.append(_HEADER)
        for name, own in _by_method(block, methods):
            lines.append(f"{_title(methods[name]):27}{_plain_row(own)}")
    return "\n".join(lines)


def write(runs, records, methods, docs):
    """Write ``defence_table.md`` and its figure into the docs directory."""
    attacked = [record for record in records if record["attack"] != "none"]
    figure = docs / "figures" / "defence_table.png"
    figure.parent.mkdir(parents=True, exist_ok=True)
    draw(attacked, methods, figure)
    parts = [
        _INTRO,
        _summary(attacked, methods),
        f"![ACC against ASR at 5 % poison](figures/{figure.name})\n",
        _detection(attacked, methods),
        *(
            _group_section(group, block, methods)
            for (group,), block in _by(attacked, "group").items()
        ),
        _harm([r for r in records if r["attack"] == "none"], methods),
        _against_clean(attacked, methods),
        _better_peers(attacked, methods),
        _sources(runs, records),
    ]
    page = docs / "defence_table.md"
    page.write_text("\n".join(parts))
    print(f"wrote {page} and {figure}")


def draw(records, methods, path, rate=0.05):
    """ACC against ASR at one rate, a panel for each group."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    at_rate = [record for record in records if record["rate"] == rate]
    groups = _by(at_rate, "group")
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    size = (3.7 * columns, 3.1 * rows + 1.3)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    handles = {}
    for ax, ((group,), block) in zip(axes.flat, groups.items(), strict=False):
        _panel(ax, block, methods, handles)
        ax.set_title(group, fontsize=9)
    for ax in axes.flat[len(groups) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("ACC, median")
    for ax in list(axes.flat)[: len(groups)][-columns:]:
        ax.set_xlabel("ASR: median, line to the worst")
    labels = [_title(methods[name]) for name in handles]
    fig.legend(
        handles.values(), labels, loc="lower center", ncol=4, fontsize=8, frameon=False
    )
    fig.suptitle(
        f"Defences at {rate:.0%} poison (upper left is best; dotted: control)",
        fontsize=11,
    )
    fig.tight_layout(rect=(0, 1.1 / size[1], 1, 1))
    fig.savefig(path, dpi=110)
    plt.close(fig)


def _panel(ax, block, methods, handles):
    ax.axvline(_median(block, "control"), color="0.5", linestyle=":", linewidth=1)
    for name, own in _by_method(block, methods):
        colour, marker = _STYLE[name]
        x, y = _median(own, "asr"), _median(own, "acc")
        # Rows that often coincide stay visible: hollow around filled, oracle on top.
        hollow = name.startswith("manifold")
        ax.plot([x, _worst(own, "asr")], [y, y], color=colour, linewidth=0.8, alpha=0.6)
        (handles[name],) = ax.plot(
            [x],
            [y],
            marker,
            color=colour,
            markersize=11 if hollow else 7,
            markerfacecolor="none" if hollow else colour,
            markeredgecolor=colour if hollow else "white",
            markeredgewidth=1.5 if hollow else 0.6,
            linestyle="none",
            zorder=4 if name == "oracle" else 3,
        )
    ax.set_xlim(-0.03, 1.03)
    ax.grid(color="0.92")
    ax.set_axisbelow(True)


# -- the parts of the page -------------------------------------------------------------


def _summary(records, methods):
    groups = _by(records, "group")
    head = ["method", *(group for (group,) in groups)]
    rows = []
    for name, own in _by_method(records, methods):
        mine = _by(own, "group")
        rows.append(
            [
                _title(methods[name]),
                *(_median_worst(mine.get(key, []), "asr") for key in groups),
            ]
        )
    text = "\n## ASR over all rates: median (worst)\n\n"
    return text + _markdown(head, rows)


def _group_section(group, block, methods):
    rates = sorted({record["rate"] for record in block})
    sizes = sorted({record["n_asr"] for record in block})
    controls = [record["control"] for record in block]
    text = (
        f"\n## {group[:1].upper()}{group[1:]}\n\n"
        f"ACC, then ASR: median (worst). Targets {_targets(block)}; ASR over "
        f"{_range(sizes)} rows; control {_range(sorted(controls), 3)}; clean accuracy "
        f"{_range(sorted({r['acc_clean'] for r in block}), 3)}.\n\n"
    )
    rows = []
    for name, own in _by_method(block, methods):
        by_rate = _by(own, "rate")
        cells = [by_rate.get((rate,), []) for rate in rates]
        rows.append(
            [
                _title(methods[name]),
                *(
                    f"{_number(_median(cell, 'acc'))}, {_median_worst(cell, 'asr')}"
                    for cell in cells
                ),
            ]
        )
    return text + _markdown(["method", *(f"{rate:.1%}" for rate in rates)], rows)


def _detection(records, methods):
    head = ["method", "AUROC", "TPR", "FPR", "labels recovered", "time"]
    fields = ("auroc", "tpr", "fpr", "recovered", "ratio")
    text = (
        "\n## Which rows, which labels, and how long\n\n"
        "Medians (worst) over every cell above. AUROC: of the score of each training "
        "row against the truth. TPR and FPR: share of poisoned and of clean rows that "
        "the method leaves out, relabels or unlearns. Labels recovered: share of "
        "poisoned rows that get their true label back. Time: processor time over that "
        "of the plain logistic regression in the same cell and run.\n\n"
    )
    rows = []
    for name, own in _by_method(records, methods):
        rows.append(
            [_title(methods[name]), *(_median_worst(own, field) for field in fields)]
        )
    return text + _markdown(head, rows)


def _harm(records, methods):
    if not records:
        return ""
    datasets = _by(records, "data")
    head = ["method", *(data for (data,) in datasets)]
    rows = []
    for name, own in _by_method(records, methods):
        mine = _by(own, "data")
        cells = []
        for key in datasets:
            block = mine.get(key, [])
            cells.append(_number(_median(block, "acc")))
            if _known(block, "fpr"):
                cells[-1] += f" ({_number(_median(block, 'fpr'))})"
        rows.append([_title(methods[name]), *cells])
    text = (
        "\n## Without any attack\n\nACC, and in brackets the share of rows left out, "
        "relabelled or unlearnt although nothing was poisoned.\n\n"
    )
    return text + _markdown(head, rows)


def _against_clean(records, methods):
    """The whole pipeline and VIBE alone beside the clean oracle, cell by cell."""
    oracle = {r["cell"]: r for r in records if r["method"] == "oracle"}
    text = (
        "\n## Beside the clean oracle\n\n"
        "ASR less the control and ACC less the oracle's, in each cell: the median, the "
        "least favourable, and the number of cells beyond a margin.\n\n"
    )
    head = ["method, data, rate", "cells", "ASR", "worst", "> 0.05", "> 0.10"]
    head += ["ACC", "worst", "< -0.015", "AUROC >= 0.97"]
    rows = []
    for name in ("vibe", _WHOLE):
        own = [r for r in records if r["method"] == name and r["cell"] in oracle]
        for (data, rate), block in _by(own, "data", "rate").items():
            asr = np.array([r["asr"] - r["control"] for r in block])
            acc = np.array([r["acc"] - oracle[r["cell"]]["acc"] for r in block])
            auroc = np.array(_known(block, "auroc"))
            rows.append(
                [
                    f"{_title(methods[name])}, {data}, {rate:.1%}",
                    str(len(block)),
                    *(_number(float(value)) for value in (np.median(asr), asr.max())),
                    *(str(np.count_nonzero(asr > margin)) for margin in (0.05, 0.1)),
                    *(_number(float(value)) for value in (np.median(acc), acc.min())),
                    str(np.count_nonzero(acc < -0.015)),
                    str(np.count_nonzero(auroc >= 0.97)),
                ]
            )
    return text + _markdown(head, rows) if rows else ""


def _better_peers(records, methods):
    """Cells in which a peer keeps more triggers out than the whole pipeline."""
    whole = {r["cell"]: r for r in records if r["method"] == _WHOLE}
    if not whole:
        return ""
    text = (
        "\n## Where a peer has the lower ASR\n\n"
        f"Cells in which a peer's ASR is more than {_MARGIN} below that of "
        f"{_title(methods[_WHOLE])}: how many; in how many of them the three steps are "
        "within 0.05 of control all the same; and by how much the peer's ACC is higher "
        "there (median; negative: it pays with accuracy).\n\n"
    )
    rows, cells = [], defaultdict(list)
    for name, own in _by_method(records, methods):
        if methods[name].own or name in ("none", "oracle"):
            continue
        ahead = [
            record
            for record in own
            if record["cell"] in whole
            and record["asr"] < whole[record["cell"]]["asr"] - _MARGIN
        ]
        for record in ahead:
            cells[record["cell"]].append(methods[name].title)
        ours = [whole[record["cell"]] for record in ahead]
        held = sum(record["asr"] <= record["control"] + 0.05 for record in ours)
        lost = [a["acc"] - b["acc"] for a, b in zip(ahead, ours, strict=True)]
        loss = _number(float(np.median(lost)) if lost else np.nan)
        rows.append(
            [_title(methods[name]), f"{len(ahead)} of {len(own)}", str(held), loss]
        )
    text += _markdown(["peer", "cells", "three steps held", "ACC"], rows)
    text += "\nThe cells, as data/attack/target/rate/seed:\n\n"
    for cell, names in sorted(cells.items()):
        text += f"- {cell.rsplit('/', 1)[0]}: {', '.join(names)}\n"
    return text


def _sources(runs, records):
    used = sorted({record["run"] for record in records})
    lines = ["\n## Runs these figures are from\n"]
    for number in used:
        names = sorted({r["method"] for r in records if r["run"] == number})
        lines.append(f"- {_stamp.describe(runs[number])}: {', '.join(names)}")
    return "\n".join(lines) + "\n"


def _markdown(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


# -- statistics ------------------------------------------------------------------------


def _by(records, *fields):
    """Records by the values of some fields, in order of these values."""
    blocks = defaultdict(list)
    for record in records:
        blocks[tuple(record[field] for field in fields)].append(record)
    return {key: blocks[key] for key in sorted(blocks)}


def _by_method(records, methods):
    by_name = _by(records, "method")
    return [(name, by_name[name,]) for name in methods if (name,) in by_name]


def _known(records, field):
    return [record[field] for record in records if field in record]


def _median(records, field):
    values = _known(records, field)
    return float(np.median(values)) if values else np.nan


def _worst(records, field):
    values = _known(records, field)
    worst = max if field in ("asr", "fpr", "ratio") else min
    return float(worst(values)) if values else np.nan


def _number(value, digits=3):
    return "–" if np.isnan(value) else f"{value:.{digits}f}"


def _median_worst(records, field):
    median = _median(records, field)
    if np.isnan(median):
        return "–"
    digits = 1 if field == "ratio" else 3
    return f"{_number(median, digits)} ({_number(_worst(records, field), digits)})"


def _plain_row(own):
    values = (
        (_median(own, "acc"), 6, 3),
        (_worst(own, "acc"), 7, 3),
        (_median(own, "asr"), 8, 3),
        (_worst(own, "asr"), 7, 3),
        (_median(own, "control"), 9, 3),
        (_median(own, "auroc"), 7, 2),
        (_median(own, "recovered"), 8, 2),
        (_median(own, "ratio"), 8, 1),
    )
    text = "".join(f"{_number(value, d):>{width}}" for value, width, d in values)
    return f"{text}{len(own):>7}"


def _title(method):
    return method.title + (" †" if method.told_rate else "")


def _targets(block):
    return ", ".join(str(target) for target in sorted({r["target"] for r in block}))


def _range(values, digits=0):
    low, high = min(values), max(values)
    if low == high:
        return f"{low:,.{digits}f}"
    return f"{low:,.{digits}f} to {high:,.{digits}f}"
