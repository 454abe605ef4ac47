"""What the paper's supplementary tables ask for: runs, and rows that point at them.

A *run* is one training: attack x method x filter x changed parameters. A *row* is a
line of a table of the paper; several rows may read the same run.
"""

from dataclasses import dataclass

# Rows of the paper whose run is not ours to make, and why.
OUT_OF_REACH = (
    ("T6", "CIFAR-10/CTRL/SimCLR+MIMIC/VIBE-SS", "MIMIC is a method of its own"),
    ("T9", "CIFAR-10(4 attacks)/NAD", "needs clean data and a finished model"),
    ("T9", "CIFAR-10(4 attacks)/ANP", "needs clean data and a finished model"),
    ("T9", "ImageNet-30(3 attacks)/VIBE-SS", "ImageNet-30 is not at hand"),
)
DIRTY = ("BadNets", "Blend", "WaNet", "FTrojan", "AdaptivePatch", "AdaptiveBlend")
CLEAN_LABEL = ("LC", "SIG", "CLBA")
# Settings that the paper varies, on BadNets: T and lr as multiples of the default.
_SWEEPS = {
    "T12": ("T", "e_step_period", {"500": 0.5, "1000": 1, "2000": 2}),
    "T13": ("lr", "lr", {"0.01": 10, "0.001": 1, "0.0001": 0.1}),
    "T14": ("delta", "delta", {"0.25": 0.25, "0.275": 0.275, "0.3": 0.3}),
    "T15": ("c", "prior_temperature", {"0.05": 0.05, "0.02": 0.02, "0.01": 0.01}),
    "T16": ("kappa", "kappa", {"20": 20.0, "10": 10.0, "2": 2.0}),
    "T17": ("nu", "nu", {"20": 20.0, "10": 10.0, "2": 2.0}),
    "T18": ("lambda", "lam", {"10": 10.0, "25": 25.0, "50": 50.0}),
}
_DEFAULTS = {
    "e_step_period": 1,
    "lr": 1,
    "delta": 0.275,
    "prior_temperature": 0.02,
    "kappa": 10.0,
    "nu": 10.0,
    "lam": 25.0,
}


@dataclass(frozen=True)
class Run:
    """One training.

    ``method`` is "none" (cross entropy), "vibe" (the paper's recipe), "skvibe" (the
    same with this library's first E-step, class shares and refit on trusted rows) or
    "logreg" (on frozen features); ``change`` is ``(parameter, value)`` or empty.
    """

    attack: str
    method: str
    filtered: bool = True
    change: tuple = ()
    encoder: str = "default"

    @property
    def key(self):
        """Name that identifies the run in the results."""
        parts = [self.attack, self.method]
        if self.method in ("vibe", "skvibe"):
            parts.append("filter" if self.filtered else "no filter")
        if self.change:
            parts.append("=".join(map(str, self.change)))
        if self.encoder != "default":
            parts.append(self.encoder)
        return "/".join(parts)


@dataclass(frozen=True)
class Row:
    """A line of a table: where it stands, what it reads, which figures it shows.

    ``run`` may be a tuple of runs: the line then shows their mean.
    """

    table: str
    setting: str
    run: Run | tuple
    metrics: tuple = ("ACC", "ASR")

    @property
    def runs(self):
        """The runs that the line reads."""
        return self.run if isinstance(self.run, tuple) else (self.run,)


def all_rows():
    """Every line that this benchmark can stand beside, the important ones first."""
    return [
        *_main_line(),
        *_clean_label_tables(),
        *_detection_table(),
        *_sweep_tables(),
        *_special_tables(),
    ]


def all_runs(rows=None):
    """Runs that rows read, each once, in the order of the rows."""
    wanted = (run for row in rows or all_rows() for run in row.runs)
    return list(dict.fromkeys(wanted))


def _main_line():
    rows = []
    for attack in (*DIRTY, *CLEAN_LABEL):
        for method, name in (("none", "None"), ("vibe", "VIBE-SS")):
            run = Run(attack, method, filtered=method == "vibe")
            rows.append(Row("main", f"{attack}/{name}", run))
        setting = f"{attack}/VIBE-SS/preprocess=no"
        rows.append(Row("main", setting, Run(attack, "vibe", filtered=False)))
        setting = f"{attack}/skvibe's own steps"
        rows.append(Row("main", setting, Run(attack, "skvibe")))
        if attack in CLEAN_LABEL:
            run = Run(attack, "skvibe", filtered=False)
            rows.append(Row("main", f"{setting}/preprocess=no", run))
    return rows


def _clean_label_tables():
    rows = []
    for attack in ("BadNets", *CLEAN_LABEL):
        for filtered, word in ((False, "no"), (True, "yes")):
            setting = f"CIFAR-10/{attack}/VIBE-SS/preprocess={word}"
            rows.append(Row("T7", setting, Run(attack, "vibe", filtered)))
    for attack in CLEAN_LABEL:
        none = Run(attack, "none", filtered=False)
        rows.append(Row("T8", f"CIFAR-10/{attack}/None", none))
        rows.append(Row("T8", f"CIFAR-10/{attack}/VIBE-SS", Run(attack, "vibe")))
    return rows


def _detection_table():
    figures = ("AUROC", "TPR", "FPR")
    return [
        Row("T10", f"{attack}/VIBE-SS", Run(attack, "vibe"), figures)
        for attack in ("BadNets", "Blend", "WaNet", "LC")
    ]


def _sweep_tables():
    rows = []
    for table, (symbol, parameter, values) in _SWEEPS.items():
        for text, value in values.items():
            default = value == _DEFAULTS[parameter]
            run = Run("BadNets", "vibe", change=() if default else (parameter, value))
            setting = f"CIFAR-10/BadNets/VIBE-SS/{symbol}={text}"
            rows.append(Row(table, setting, run))
    return rows


def _special_tables():
    # The paper does not say which four attacks; these are the ones of its table 10.
    four = tuple(Run(attack, "vibe") for attack in ("BadNets", "Blend", "WaNet", "LC"))
    rows = [Row("T9", "CIFAR-10(4 attacks)/VIBE-SS", four)]
    for attack in ("BadNets", "Blend"):
        for method, name in (("none", "None"), ("vibe", "VIBE-SS")):
            run = Run(attack, method, filtered=method == "vibe", encoder="vgg11")
            rows.append(Row("T11", f"CIFAR-10/VGG-11/{attack}/{name}", run))
    for method, name in (("none", "CE"), ("vibe", "VIBE-SS")):
        run = Run("AdaptiveTrigger", method, filtered=method == "vibe")
        rows.append(Row("I.3", f"CIFAR-10/adaptive/{name}", run))
    for method, name in (("none", "None"), ("vibe", "VIBE-SS")):
        run = Run("WitchesBrew", method, filtered=method == "vibe")
        rows.append(Row("I.4", f"CIFAR-10/WitchesBrew/{name}", run, ("ASR",)))
    for method, name in (("logreg", "LogReg"), ("vibe", "VIBE-SS")):
        run = Run("CTRL", method, filtered=method == "vibe")
        rows.append(Row("T6", f"CIFAR-10/CTRL/SimCLR/{name}", run))
    return rows
