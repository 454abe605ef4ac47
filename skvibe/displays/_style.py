"""What all displays share: colours, axes, class names, drawing part of many rows."""

import numpy as np
from sklearn.utils import check_random_state

# M. Okabe, K. Ito, "Color Universal Design", 2008. Vermillion is kept for suspects
# and never stands for a class.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
SKY, PURPLE, YELLOW = "#56B4E9", "#CC79A7", "#F0E442"
VERMILLION, GREY = "#D55E00", "#6E6E6E"
# Yellow, the palest on white, comes last.
CLASS_COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY, GREY, YELLOW)
# A second sign beside colour, changed once the colours are used up and within them.
CLASS_MARKERS = ("o", "s", "^", "v", "P", "D", "<", ">", "h", "p")
_LONGEST_NAME = 22


def import_pyplot(who):
    """matplotlib.pyplot, or a message that names the extra to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{who} draws with matplotlib, which is not installed: "
            "pip install 'skvibe[plot]'."
        ) from error
    return plt


def figure_and_axes(ax, who, figsize=None, layout="constrained"):
    """The axes given and their figure, or those of a new figure."""
    plt = import_pyplot(who)
    if ax is not None:
        return ax.figure, ax
    return plt.subplots(figsize=figsize, layout=layout)


def plain(value, longest=_LONGEST_NAME):
    """A label as one short line that matplotlib draws as it is.

    A dollar sign would start a formula, and a formula with an error raises.
    """
    text = " ".join(str(value).split())
    # Control signs and lone surrogates cannot stand in an SVG; joiners shape letters.
    text = "".join(
        sign if sign.isprintable() or sign in "\u200c\u200d" else "\ufffd"
        for sign in text
    )
    if len(text) > longest:
        # Names often differ at the end only, so both ends are kept.
        tail = longest // 3
        text = text[: longest - 1 - tail] + "…" + text[-tail:]
    if text.startswith("_"):
        # matplotlib leaves such names out of legends.
        text = " " + text
    return text.replace("$", r"\$")


def class_style(code):
    """Colour and marker of the class with this code; pairs repeat after 70 classes."""
    rounds, place = divmod(code, len(CLASS_COLORS))
    marker = CLASS_MARKERS[(place + rounds) % len(CLASS_MARKERS)]
    return {"color": CLASS_COLORS[place], "marker": marker}


def choose_rows(important, max_points, random_state):
    """Rows to draw: all of them, or a random part of both kinds.

    Parameters
    ----------
    important : ndarray of bool of shape (n_samples,)
        Rows (suspects) that fill a fifth of the places, if there are so many, even
        where their share is smaller: a few among very many are not lost.
    max_points : int
        Largest number of rows.
    random_state : int, RandomState instance or None
        Seed of the choice.

    Returns
    -------
    ndarray of int64
        Row numbers, ascending.
    """
    n_rows = len(important)
    if n_rows <= max_points:
        return np.arange(n_rows)
    rng = check_random_state(random_state)
    first, others = np.flatnonzero(important), np.flatnonzero(~important)
    share = max(0.2, len(first) / n_rows)
    n_first = min(len(first), round(share * max_points))
    rows = [
        rng.choice(first, n_first, replace=False),
        rng.choice(others, max_points - n_first, replace=False),
    ]
    return np.sort(np.concatenate(rows))


def say_how_many(ax, shown, total, random_state):
    """Say above the picture that it shows a part only."""
    if shown < total:
        seed = f", random_state={random_state}" if isinstance(random_state, int) else ""
        ax.text(
            0.0,
            1.01,
            f"{shown:,} of {total:,} rows drawn{seed}",
            transform=ax.transAxes,
            va="bottom",
            fontsize="small",
            color=GREY,
        )


def hide_scale(ax):
    """Projected coordinates have no unit: the numbers along the axes say nothing."""
    ax.set_xticks([])
    ax.set_yticks([])


def fitted_classifier(estimator, attribute):
    """The last step of a pipeline, or the estimator itself, with ``attribute``."""
    final = estimator[-1] if hasattr(estimator, "steps") else estimator
    if not hasattr(final, attribute):
        raise ValueError(
            f"{type(final).__name__} has no attribute {attribute}. Give a fitted "
            "VIBEClassifier, or a fitted pipeline that ends with one."
        )
    return final


def before_classifier(estimator, X):
    """X as the last step of a pipeline sees it."""
    if hasattr(estimator, "steps") and len(estimator.steps) > 1:
        return estimator[:-1].transform(X)
    return X


def check_lengths(**arrays):
    """Raise if arrays that describe the same rows differ in length."""
    lengths = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"All must describe the same rows, but {text}.")
