"""Command line: ``python -m skvibe audit features.npy labels.npy --html report.html``.

Exit status: 0 nothing to report, 1 suspect rows found, 2 wrong use or unreadable
input, 3 the audit itself failed.
"""

import argparse
import csv
import sys
import traceback
import warnings
from contextlib import redirect_stdout

import numpy as np

from skvibe._version import __version__

NOTHING_FOUND, FOUND, WRONG_USE, FAILED = 0, 1, 2, 3
_EPILOG = """\
exit status:
  0  nothing to report (see --fail-on)
  1  suspect rows were found
  2  wrong use, or an input that cannot be read
  3  the audit itself failed

Progress goes to standard error, the findings to standard output.
"""


class InputError(Exception):
    """An input that cannot be read, with a message for the person who gave it."""


def main(arguments=None):
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, default=None
        Arguments; None takes those of the process.

    Returns
    -------
    int
        Exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        return _audit(options)
    except InputError as error:
        print(f"skvibe: error: {error}", file=sys.stderr)  # noqa: T201
        return WRONG_USE
    except KeyboardInterrupt:
        print("skvibe: interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except Exception as error:
        # Python itself would exit with 1, which means something else here.
        if options.debug:
            traceback.print_exc()
        print(f"skvibe: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return FAILED


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m skvibe", description="Find poisoned rows in training data."
    )
    parser.add_argument("--version", action="version", version=f"skvibe {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    audit = commands.add_parser(
        "audit",
        help="say which rows of a training set are suspect, and why",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    audit.add_argument("features", help=".npy file of shape (n_rows, n_features)")
    audit.add_argument("labels", help=".npy file of shape (n_rows,)")
    shown = audit.add_argument_group("shown with the rows")
    shown.add_argument("--text", metavar="CSV", help="CSV file with a header line")
    shown.add_argument(
        "--text-column",
        metavar="NAME",
        help="its column (default: 'text', or the only column)",
    )
    shown.add_argument("--images", metavar="NPY", help=".npy file of images")
    shown.add_argument(
        "--feature-names", metavar="TXT", help="text file, one name a line"
    )
    out = audit.add_argument_group("output")
    out.add_argument("--html", metavar="FILE", help="write the report as a web page")
    out.add_argument("--csv", metavar="FILE", help="write one line for each row")
    out.add_argument(
        "--json", action="store_true", help="print the findings as JSON, not in words"
    )
    out.add_argument("--title", default="skvibe audit", help="heading of the page")
    out.add_argument(
        "--no-figures", action="store_true", help="no figures (needs no matplotlib)"
    )
    out.add_argument("--quiet", action="store_true", help="show no progress")
    out.add_argument("--debug", action="store_true", help="show where a failure arose")
    out.add_argument(
        "--fail-on",
        choices=("suspects", "planted", "never"),
        default="suspects",
        help="exit with 1 if any row is suspect (default), only if rows look planted "
        "by a trigger, or never",
    )
    audit.add_argument(
        "--threshold", type=_share, default=0.5, help="poison score (default: 0.5)"
    )
    audit.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    return parser


def _audit(options):
    X, y = _read_array(options.features, 2), _read_array(options.labels, 1)
    inputs = {"text": None, "images": None, "feature_names": None}
    if options.text:
        inputs["text"] = _read_text(options.text, options.text_column)
    if options.images:
        inputs["images"] = _read_array(options.images, None)
    if options.feature_names:
        inputs["feature_names"] = _read_lines(options.feature_names)
    _check_lengths(options, X, y, inputs)
    _check_values(options, X)
    _check_plotting(options)

    from skvibe.auditing import audit

    # Whatever the steps print is progress: standard output is for the findings.
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.showwarning = _show_warning
        found = audit(
            X,
            y,
            **inputs,
            threshold=options.threshold,
            random_state=options.seed,
            verbose=0 if options.quiet else 1,
        )
        _write_files(found, options)
    if options.json:
        print(found.to_json(indent=1))  # noqa: T201
    else:
        print(found.summary())  # noqa: T201
    return _status(found, options.fail_on)


def _write_files(found, options):
    try:
        if options.html:
            figures = not options.no_figures
            found.to_html(options.html, title=options.title, figures=figures)
        if options.csv:
            found.to_csv(options.csv)
    except OSError as error:
        raise InputError(f"cannot write: {error}") from error
    for path in (options.html, options.csv):
        if path and not options.quiet:
            print(f"[audit] wrote {path}", file=sys.stderr)  # noqa: T201


def _status(found, fail_on):
    if fail_on == "suspects":
        return FOUND if found.is_suspect.any() else NOTHING_FOUND
    if fail_on == "planted":
        planted = any(group.evidence for group in found.groups)
        return FOUND if planted else NOTHING_FOUND
    return NOTHING_FOUND


def _read_array(path, n_dimensions):
    try:
        # Never pickled objects: loading those runs code from whoever wrote the file.
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(
            f"{path} is not a plain .npy array. Pickled objects are refused; save "
            "strings with y.astype(str) and numbers as numbers."
        ) from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} holds several arrays (.npz): save one as .npy.")
    if n_dimensions is not None and array.ndim != n_dimensions:
        raise InputError(
            f"{path} has shape {array.shape}: expected {n_dimensions} dimension(s)."
        )
    return array


def _read_text(path, column):
    csv.field_size_limit(2**31 - 1)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            column = _choose_column(path, names, column)
            return [row[column] or "" for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _choose_column(path, names, column):
    if column is None:
        column = names[0] if len(names) == 1 else "text"
    if column not in names:
        raise InputError(
            f"{path} has no column {column!r}, only {', '.join(map(repr, names))}: "
            "name one with --text-column."
        )
    return column


def _read_lines(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _check_lengths(options, X, y, inputs):
    given = ((options.labels, y), (options.text, inputs["text"]))
    for path, values in (*given, (options.images, inputs["images"])):
        if values is not None and len(values) != len(X):
            raise InputError(
                f"{path} has {len(values)} rows, {options.features} has {len(X)}: "
                "they must describe the same rows in the same order."
            )
    names = inputs["feature_names"]
    if names is not None and len(names) != X.shape[1]:
        raise InputError(
            f"{options.feature_names} has {len(names)} names for {X.shape[1]} features."
        )


def _check_values(options, X):
    if X.dtype.kind not in "fiub":
        raise InputError(f"{options.features} holds {X.dtype}, not numbers.")
    if not np.isfinite(X).all():
        raise InputError(
            f"{options.features} holds NaN or infinity: impute or drop these rows."
        )


def _check_plotting(options):
    """Say that matplotlib is missing before the long work, not after it."""
    if options.html and not options.no_figures:
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise InputError(
                "the report draws with matplotlib, which is not installed: pip "
                "install 'skvibe[plot]', or give --no-figures."
            ) from error


def _share(text):
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1], got {text}")
    return value


def _show_warning(message, category, *_args, **_more):
    print(f"skvibe: warning: {message}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
