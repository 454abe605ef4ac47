"""The figures of the report, as SVG."""

import base64
import io
import warnings

# Narrow, so that its words are legible on a phone.
_WIDTH = 4.8


def draw_figures(audit):
    """All figures that the audited pipeline has something to show in.

    Parameters
    ----------
    audit : Audit
        The verdict.

    Returns
    -------
    list of (str, str, str)
        Data address of the SVG image, alternative text, caption.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    figures = [_scores(audit), _latent_space(audit)]
    steps = [step for _, step in getattr(audit.estimator, "steps", [])]
    searched = [step for step in steps if getattr(step, "n_communities_", 0) > 1]
    figures += [_communities(audit, step) for step in searched[:1]]
    figures += [_rule(audit), _progress(audit)]
    return figures


def _scores(audit):
    from skvibe.displays import PoisonScoreDisplay

    n_drawn = min(len(audit.classes), 20)
    figure, ax = _new_axes(max(3.8, 1.4 + 0.34 * n_drawn))
    PoisonScoreDisplay.from_predictions(
        audit.given_labels,
        audit.poison_scores,
        classes=audit.classes,
        threshold=audit.threshold,
        ax=ax,
    )
    return (
        _address(figure),
        "Histogram of the poison scores for each given label",
        "Poison scores by given label; rows removed by a filter have score 1. Heights "
        "are on a logarithmic scale.",
    )


def _latent_space(audit):
    from skvibe.displays import LatentSpaceDisplay

    figure, ax = _new_axes(3.8)
    LatentSpaceDisplay.from_estimator(
        audit.estimator,
        audit._X,
        audit.given_labels,
        threshold=audit.threshold,
        ax=ax,
    )
    return (
        _address(figure),
        "Rows and prototypes in the plane in which the classes differ most",
        "The latent space. Crosses: rows to which the classifier would give another "
        "label. Stars: clean prototypes. Diamonds: corrupted prototypes.",
    )


def _communities(audit, step):
    from skvibe.displays import CommunityDisplay

    figure, ax = _new_axes(3.8)
    CommunityDisplay.from_estimator(step, audit._X, ax=ax)
    return (
        _address(figure),
        "Rows in the plane by community of the neighbour graph",
        "Communities of the neighbour graph; crosses were removed by the filter.",
    )


def _rule(audit):
    from skvibe.displays import PoisoningRuleDisplay

    figure, ax = _new_axes(3.8, layout="compressed")
    PoisoningRuleDisplay.from_predictions(
        audit.given_labels, audit.clean_labels, classes=audit.classes, ax=ax
    )
    return (
        _address(figure),
        "Table of given labels by clean label",
        "Poisoning rule: which labels the rows of each clean class were given. For "
        "removed rows the clean label is the predicted one.",
    )


def _progress(audit):
    from skvibe.displays import EMProgressDisplay

    figure, axes = _new_axes(3.8, n_rows=2)
    EMProgressDisplay.from_estimator(audit.estimator, ax=axes)
    return (
        _address(figure),
        "Lower bound and changed labels over the EM rounds",
        "Training: the bound should rise and flatten, the changes should fall. The "
        "first bound (hollow) is of a simpler model and does not compare.",
    )


def _new_axes(height, n_rows=1, layout="constrained"):
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "The report draws with matplotlib, which is not installed: pip install "
            "'skvibe[plot]', or ask for figures=False."
        ) from error
    # Not through pyplot: no window, no global state.
    figure = Figure(figsize=(_WIDTH, height), layout=layout)
    return figure, figure.subplots(n_rows, 1)


def _address(figure):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A class name in a script the font lacks is drawn as boxes, not an error.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        # No date and fixed ids: the same audit gives the same page.
        import matplotlib as mpl

        with mpl.rc_context({"svg.hashsalt": "skvibe"}):
            figure.savefig(buffer, format="svg", dpi=160, metadata={"Date": None})
    code = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/svg+xml;base64,{code}"
