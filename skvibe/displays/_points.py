"""Rows as points in the plane: signs, names that do not cover each other, legends."""

import numpy as np

from skvibe.displays._style import VERMILLION, class_style, hide_scale

# Narrower axes (inches) have their legend below.
_NARROW = 3.6
# Distances at which a name may stand from its place, in points.
_REACH = (9.0, 14.0, 20.0, 28.0, 38.0, 50.0, 64.0, 80.0, 100.0, 125.0, 150.0)
_DIRECTIONS = np.deg2rad(
    [90, 270, 0, 180, *range(45, 360, 90), *np.arange(22.5, 360, 45)]
)


def point_size(n_points):
    """Area of a point, in square points; of many points each is smaller."""
    return float(np.clip(20000 / max(n_points, 1), 5, 16))


def draw_rows(ax, points, codes, crossed, n_codes):
    """One sign for each row: that of its class or community, or a cross.

    Parameters
    ----------
    ax : matplotlib Axes
        Axes to draw on.
    points : ndarray of shape (n_samples, 2)
        Coordinates.
    codes : ndarray of int of shape (n_samples,)
        Class or community; rows with a negative number are grey.
    crossed : ndarray of bool of shape (n_samples,)
        Rows drawn as crosses, above the others.
    n_codes : int
        Number of classes or communities.
    """
    size = point_size(len(points))
    # A thin edge: light colours stay visible on white. Points are one picture, since
    # thousands of vector shapes make a file heavy.
    look = {"s": size, "alpha": 0.6, "edgecolors": "0.2", "lw": 0.15}
    for code in range(n_codes):
        rows = (codes == code) & ~crossed
        ax.scatter(*points[rows].T, rasterized=True, **look, **class_style(code))
    none = (codes < 0) & ~crossed
    ax.scatter(*points[none].T, s=size, color="0.7", lw=0, rasterized=True)
    ax.scatter(
        *points[crossed].T,
        s=1.4 * size + 3,
        marker="x",
        color=VERMILLION,
        lw=0.8,
        alpha=0.7,
        rasterized=True,
    )


def name_plane(ax, axis_names):
    """What the two coordinates are; they have no unit."""
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1])
    hide_scale(ax)


def sign(label, **style):
    """A sign for the legend, as large for few rows as for many."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **{"ls": "", "ms": 6, "label": label, **style})


def cross_sign(label):
    """The cross that stands for removed and suspect rows."""
    return sign(label, marker="x", color=VERMILLION)


def add_legend(ax, handles, title):
    """Legend beside the axes, or below narrow ones (a phone, one of many panels).

    Parameters
    ----------
    ax : matplotlib Axes
        Axes whose labels and ticks are set.
    handles : list of artists with labels
        Entries.
    title : str
        Heading.
    """
    common = {"handles": handles, "title": title, "frameon": False}
    small = "small" if len(handles) <= 16 else "x-small"
    width = width_inches(ax)
    if width >= _NARROW:
        ax.legend(
            loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=small, **common
        )
        return
    from matplotlib.transforms import ScaledTranslation

    # Room for the label of the axis, and for its numbers.
    room = 22 if len(ax.get_xticks()) == 0 else 36
    down = ScaledTranslation(0, -room / 72, ax.figure.dpi_scale_trans)
    labels = [handle.get_label() for handle in handles]
    ax.legend(
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=ax.transAxes + down,
        fontsize="x-small",
        title_fontsize="small",
        ncols=_n_columns(labels, 1.15 * 72 * width),
        handletextpad=0.2,
        columnspacing=0.8,
        **common,
    )


def _n_columns(labels, width):
    """As many columns as find room in a width in points."""
    for n_columns in range(len(labels), 1, -1):
        parts = np.array_split(labels, n_columns)
        # Of a small sign, a gap and signs of the font.
        if sum(22 + 5 * max(map(len, part)) for part in parts) <= width:
            return n_columns
    return 1


def width_inches(ax):
    """Width of the place that the axes have in their figure."""
    place = ax.get_subplotspec()
    box = ax.get_position() if place is None else place.get_position(ax.figure)
    # Also of a figure within a figure.
    return box.width * ax.figure.bbox.width / ax.figure.dpi


def name_places(ax, places, names, *, start=0.0, fontsize="small"):
    """Write names at places in the plane so that none covers another.

    A name that has to stand away from its place is joined to it by a thin line.

    Parameters
    ----------
    ax : matplotlib Axes
        Axes with everything else drawn: where there is room depends on the layout.
    places : ndarray of shape (n_names, 2)
        Coordinates.
    names : list of str
        Short names.
    start : float, default=0.0
        Smallest distance of a name from its place, in points.
    fontsize : float or str, default="small"
        Of the names.
    """
    from matplotlib.patheffects import withStroke

    # Text first, so that its size is known; the layout moves axes when it is drawn.
    texts = [
        ax.annotate(
            name,
            place,
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=fontsize,
            fontweight="bold",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            zorder=6,
        )
        for name, place in zip(names, places, strict=True)
    ]
    ax.figure.figure.draw_without_rendering()
    points = 72 / ax.figure.dpi
    anchors = points * ax.transData.transform(np.asarray(places, dtype=float))
    boxes = [text.get_window_extent() for text in texts]
    sizes = points * np.array([[box.width, box.height] for box in boxes])
    frame = points * ax.bbox.extents
    for text, offset in zip(
        texts, spread(anchors, sizes, frame, start=start), strict=True
    ):
        text.set_position(offset)
        if np.hypot(*offset) > start + 9:
            _join(ax, text.xy, offset)


def _join(ax, place, offset):
    line = {"arrowstyle": "-", "color": "0.25", "lw": 0.6, "shrinkA": 5, "shrinkB": 3}
    ax.annotate(
        "",
        place,
        xytext=tuple(offset),
        textcoords="offset points",
        arrowprops=line,
        zorder=5,
    )


def spread(anchors, sizes, frame, *, start=0.0):
    """Offsets of boxes from their anchors such that boxes do not overlap.

    One box after another takes the nearest place of a fixed list that covers no box
    placed before, stays in the frame and, if it can be had, covers no anchor.

    Parameters
    ----------
    anchors : ndarray of shape (n_boxes, 2)
        Where the boxes want to be.
    sizes : ndarray of shape (n_boxes, 2)
        Widths and heights.
    frame : array-like of shape (4,)
        Left, bottom, right and top.
    start : float, default=0.0
        Smallest distance; with 0 a box may stand on its own anchor.

    Returns
    -------
    ndarray of shape (n_boxes, 2)
        Offsets of the centres.
    """
    offsets, placed = np.zeros((len(anchors), 2)), np.empty((0, 4))
    frame = np.asarray(frame)
    marks = _boxes(anchors, np.full((1, 2), 6.0))
    for i, (anchor, size) in enumerate(zip(anchors, sizes, strict=True)):
        centres = anchor + _choices(size, start)
        centres = np.clip(centres, frame[:2] + size / 2, frame[2:] - size / 2)
        choices, boxes = centres - anchor, _boxes(centres, size + 1.0)
        others = marks if start else np.delete(marks, i, axis=0)
        cost = 1e4 * _overlap(boxes, placed)
        cost += 3.0 * _overlap(boxes, others) + np.hypot(*choices.T)
        best = cost.argmin()
        offsets[i], placed = choices[best], np.vstack([placed, boxes[best]])
    return offsets


def _choices(size, start):
    """Offsets round a place, the nearest first; wide names go farther sideways."""
    unit = np.column_stack([np.cos(_DIRECTIONS), np.sin(_DIRECTIONS)])
    reach = np.array([r for r in _REACH if r >= start])
    stretched = unit * (1 + np.array([max(size[0] - size[1], 0) / 2, 0]) / 9)
    choices = (reach[:, None, None] * stretched).reshape(-1, 2)
    return choices if start else np.vstack([[[0.0, 0.0]], choices])


def _boxes(centres, sizes):
    return np.hstack([centres - sizes / 2, centres + sizes / 2])


def _overlap(boxes, others):
    """Area that each box shares with the others."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)
