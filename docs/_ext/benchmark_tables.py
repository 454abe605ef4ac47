"""Tables made from ``benchmarks/results`` when the pages are built.

``{benchmark} name`` calls the function of that name below and puts the command, date
and machine of the run under its table, so that no figure is ever copied by hand.
"""

import json
from pathlib import Path

from sphinx.util.docutils import SphinxDirective

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def fit(found):
    """Cost of a default fit."""
    whole, epoch, steps = found["whole_fit"], found["epoch"], found["e_steps"]
    yield ["what", "skvibe", "compared with", "ratio"]
    yield [
        f"whole default fit, {whole['n_rows']:,} rows",
        f"{whole['vibe_s']:.2f} s",
        f"logistic regression {whole['logistic_regression_s']:.2f} s",
        f"{whole['ratio']:.2f}",
    ]
    yield [
        f"an epoch of the M-step, {epoch['n_rows']:,} x {epoch['n_features']}",
        f"{epoch['skvibe_s']:.3f} s",
        f"bare torch loop {epoch['bare_torch_s']:.3f} s",
        f"{epoch['ratio']:.2f}",
    ]
    share = steps["e_step_share"]
    size = f"{epoch['n_rows']:,} x {epoch['n_features']}"
    parts = f"{share:.1%} of {steps['fit_s']:.2f} s"
    yield [f"E-steps in a default fit, {size}", parts, "", ""]
    for part, share in steps["shares_of_e_steps"].items():
        yield [f"{part} in these E-steps", f"{share:.0%}", "", ""]


def transport(found):
    """One E-step against Sinkhorn's iterations to the same accuracy."""
    rivals = list(found["anchors"][0]["times skvibe"])
    yield [
        "rows",
        "classes",
        "kind",
        "skvibe, to 1e-6",
        *(f"{n}, times" for n in rivals),
    ]
    for line in found["anchors"]:
        times = line["times skvibe"]
        yield [
            f"{line['N']:,}",
            f"{line['K']:,}",
            line["kind"],
            f"{line['skvibe 1e-06']['s']:.4f} s",
            *(_times(times.get(name), line) for name in rivals),
        ]


def drift(found):
    """Iterations (whole passes) from zero and from the last solution."""
    moves = list(found["drift"][0]["warm"])
    yield ["problem", "from zero", *(f"after {float(move):.0%}" for move in moves)]
    for line in found["drift"]:
        warm = (line["warm"][move] for move in moves)
        yield [
            f"{line['kind']}, {line['N']:,} x {line['K']}",
            f"{line['cold']} ({line['cold whole passes']})",
            *(f"{cell['passes']} ({cell['whole passes']})" for cell in warm),
        ]


def posteriors(found):
    """The full corrupted posterior against the approximate one."""
    found = found["posteriors"]
    yield [
        "processor time, {n_rows:,} rows, {n_classes} classes".format(**found),
        "ratio",
    ]
    ratios = {
        "log_p_ratio": "log-probabilities alone, full over approximate posterior",
        "e_step_ratio": "E-step over all rows, full over approximate",
        "later_e_step_ratio": "later E-step, full over approximate",
        "later_over_whole": "later E-step over one over all rows, both full",
    }
    for name, what in ratios.items():
        yield [what, f"{found[name]:.2f}"]


def memory(found):
    """Peak memory as a share of its bar."""
    yield ["rows", "classes", "features", "posterior, labels", "E-step", "fit"]
    for line in found["cases"]:
        yield [
            f"{line['N']:,}",
            f"{line['K']:,}",
            f"{line['d']:,}",
            f"{line['posterior']}, {line['pseudo_labels']}",
            f"{line['e_step_bytes'] / line['matrix_bytes']:.2f} matrices "
            f"({line['e_step_share_of_bar']:.2f})",
            f"{line['fit_bytes'] / 1e6:.0f} MB ({line['fit_share_of_bar']:.2f})",
        ]


def e_step_period(found):
    """E-steps every 20 iterations, an epoch or two apart."""
    yield ["E-steps", "ACC", "ASR", "AUROC", "iterations", "E-steps made", "a fit"]
    names = {
        "20": "every 20 iterations",
        "auto": "an epoch apart (default)",
        "98": "two epochs apart",
    }
    for period, line in found["means"].items():
        yield [
            names[period],
            *(f"{line[key]:.4f}" for key in ("ACC", "ASR", "AUROC")),
            *(f"{line[key]:.0f}" for key in ("iterations", "e_steps")),
            f"{line['fit_s']:.1f} s",
        ]


def gpu(found):
    """E-steps on a GPU, with kernels and with plain operations."""
    yield [
        "rows",
        "classes",
        "a pass by",
        "from zero",
        "from the last solution",
        "published loop, times",
        "extra memory, matrices",
    ]
    for kind, line, solved in _on_gpu(found):
        yield [
            f"{line['N']:,}",
            f"{line['K']:,}",
            kind,
            f"{1e3 * solved['cold_s']:,.1f} ms",
            f"{1e3 * solved['warm_s']:,.1f} ms",
            _times(line["reference_over_cold"].get(kind), line),
            f"{solved['peak_bytes_over_matrix']:.2f}",
        ]


def gpu_passes(found):
    """Passes over all rows by kernels, as shares of the copy bandwidth."""
    names = ("plain, on the device", "plain", "with curvature, on the device")
    names = ("screen alone", *names, "with curvature")
    heads = ("plain, GPU", "plain, clock", "curvature, GPU", "curvature, clock")
    yield ["rows", "classes", "screen", *heads]
    for kind, line, solved in _on_gpu(found):
        taken, share = solved["pass_s"], solved["share_of_copy_bandwidth"]
        if kind == "kernels":
            yield [
                f"{line['N']:,}",
                f"{line['K']:,}",
                *(f"{1e3 * taken[name]:.2f} ms ({share[name]:.0%})" for name in names),
            ]


def _on_gpu(found):
    for line in found["transport"]:
        for kind in ("kernels", "plain operations"):
            if kind in line:
                yield kind, line, line[kind]


def gpu_agreement(found):
    """The same E-step on a GPU and on one thread of its machine's processor."""
    yield ["rows", "classes", "GPU", "processor", "ratio", "equal labels"]
    line = found["agreement"]
    yield [
        f"{line['N']:,}",
        f"{line['K']:,}",
        f"{1e3 * line['device_s']:.1f} ms",
        f"{1e3 * line['processor_s']:.1f} ms",
        f"{line['processor_over_device']:.1f}",
        f"{line['equal_labels']:.0%}",
    ]


def gpu_fits(found):
    """What a GPU takes beside one thread of its machine's processor."""
    yield ["what", "rows", "features", "classes", "GPU", "processor", "ratio"]
    for line in found["fits"]:
        n = line["iterations"]
        yield [
            "default fit" if n is None else f"EM alone, {n} iterations",
            f"{line['N']:,}",
            f"{line['d']:,}",
            f"{line['K']:,}",
            f"{line['device_s']:.1f} s",
            f"{line['processor_s']:.1f} s",
            f"{line['processor_over_device']:.1f}",
        ]


def _times(value, line):
    if value is None:
        return ""
    return f"{'> ' if line.get('lower bound') else ''}{value:,.0f}"


def neighbours(found):
    """Neighbour search: seconds (recall)."""
    names = list(found["knn"][0]["seconds"])
    yield ["rows", "features", *names]
    for line in found["knn"]:
        cells = [
            f"{line['seconds'][name]:.2f} s ({line['recall'][name]:.3f})"
            if line["seconds"].get(name) is not None
            else ""
            for name in names
        ]
        yield [f"{line['n']:,}", f"{line['d']:,}", *cells]


def trigger_cost(found):
    """Cost of the three steps of the pipeline."""
    yield ["step", "processor time", "times LogisticRegression(C=1)", "times C=10"]
    for step, ratio in found["ratio to C=1"].items():
        yield [
            step,
            f"{min(found['seconds'][step]):.1f} s",
            f"{ratio:.1f}",
            f"{found['ratio to C=10'][step]:.1f}",
        ]


def alone(found):
    """The classifier alone, cell by cell."""
    yield ["cell", "ACC", "ASR", "AUROC", "labels recovered", "undefended ACC / ASR"]
    for cell in found["cells"]:
        yield [
            cell["cell"],
            *(_number(cell.get(key)) for key in ("acc", "asr", "auroc", "recovered")),
            f"{_number(cell.get('undefended_acc'))} / "
            f"{_number(cell.get('undefended_asr'))}",
        ]


def encoders(found):
    """Training of encoders against a bare torch loop."""
    yield ["what", "skvibe", "bare torch loop", "ratio of the times"]
    for name, line in found["results"].items():
        yield [
            name.replace("_", " "),
            f"{line['images_per_second']:,.0f} images/s",
            f"{line['bare_images_per_second']:,.0f} images/s",
            f"{line['ratio']:.2f}",
        ]


def walk(found):
    """The steps of the walk from a CSV file."""
    # Processor seconds where the run counted them: they mean more on a busy machine.
    keys = [key for key in ("seconds", "processor seconds") if key in found["steps"][0]]
    yield ["step", *keys]
    for step in found["steps"]:
        yield [f"`{step['command']}`", *(f"{step[key]:.0f}" for key in keys)]
    sums = [sum(step[key] for step in found["steps"]) for key in keys]
    yield ["**all**", *(f"**{total:.0f}**" for total in sums)]


def walk_outcome(found):
    """What came out of the walk."""
    yield ["classifier", "ACC", "ASR", "control"]
    for line in found["classifiers"]:
        yield [
            line["name"],
            *(_number(line.get(key)) for key in ("acc", "asr", "control")),
        ]


def walk_actions(found):
    """What the audit of the walk suggested."""
    yield ["action", "rows", "poisoned"]
    for action, (rows, poisoned) in found["actions: rows, poisoned"].items():
        yield [f"`{action}`", f"{rows:,}", f"{poisoned:,}"]


def report(found):
    """The parts of an audit of many rows."""
    # Not the clock's: others may have worked on the machine.
    yield ["part", "processor seconds"]
    for name, part in found["parts"].items():
        yield [name, f"{part['processor seconds']:.1f}"]
    total = sum(part["processor seconds"] for part in found["parts"].values())
    yield ["**all**", f"**{total:.1f}**"]


def report_pages(found):
    """The pages of an audit of many rows, in a browser."""
    yield ["page", "size", "interactive after", "sorted after", "searched after"]
    for name, page in found["pages"].items():
        waits = [page[key] for key in ("interactive", "sort by score", "first search")]
        yield [
            name,
            f"{page['megabytes']:.1f} MB",
            *(f"{wait:.2f} s" for wait in waits),
        ]


def review(found):
    """Wrong labels among the rows to review, by score."""
    yield ["poison score", "rows", "with a changed label", "share"]
    for line in found["lines"]:
        rows, changed = line["rows"], line["changed"]
        share = f"{changed / rows:.2f}" if rows else ""
        yield [f"{line['from']:g} to {line['to']:g}", f"{rows}", f"{changed}", share]


def _number(value):
    return "" if value is None else f"{value:.3f}"


# name in the page -> file of results and what makes the table of it
TABLES = {
    "fit": ("fit.json", fit),
    "transport": ("transport.json", transport),
    "drift": ("transport.json", drift),
    "gpu": ("gpu.json", gpu),
    "gpu-passes": ("gpu.json", gpu_passes),
    "gpu-agreement": ("gpu.json", gpu_agreement),
    "gpu-fits": ("gpu_fits.json", gpu_fits),
    "posteriors": ("fit.json", posteriors),
    "memory": ("memory.json", memory),
    "e-step-period": ("e_step_period.json", e_step_period),
    "neighbours": ("graph.json", neighbours),
    "trigger-cost": ("trigger_filter_cost.json", trigger_cost),
    "classifier-alone": ("classifier_alone.json", alone),
    "encoders": ("encoder_throughput.json", encoders),
    "review": ("review_rows.json", review),
    "walk": ("newcomer_walk.json", walk),
    "walk-outcome": ("newcomer_walk.json", walk_outcome),
    "walk-actions": ("newcomer_walk.json", walk_actions),
    "report": ("report.json", report),
    "report-pages": ("report.json", report_pages),
}


def _source(file, run):
    machine = run["cpu"]
    if "device" in run:
        machine = f"{run['device']} beside {machine}"
    return (
        f"*Printed by* `{run['command']}`, {run['date']}, {machine}, "
        f"OMP_NUM_THREADS={run['threads']} "
        f"([result](../benchmarks/results/{file}))."
    )


class Benchmark(SphinxDirective):
    """``{benchmark} name``: a table, and what printed it."""

    required_arguments = 1

    def run(self):
        """Make the table as Markdown and let the parser read it."""
        file, make = TABLES[self.arguments[0]]
        path = RESULTS / file
        self.env.note_dependency(str(path))
        found = json.loads(path.read_text())
        head, *rows = make(found)
        lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
        lines.insert(1, "|" + "---|" * len(head))
        # A part measured anew has a stamp of its own.
        stamp = found.get(f"{self.arguments[0]} run") or found.get("run")
        lines += ["", _source(file, stamp or found["stamp"])]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app):
    """Register the directive."""
    app.add_directive("benchmark", Benchmark)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
