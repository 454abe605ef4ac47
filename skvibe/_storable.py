"""The classes a model file may name. Nothing else is imported on a file's word."""

from importlib import import_module

# module -> its classes; a file says "module.class".
_CLASSES = {
    "skvibe": ("OffManifoldFilter", "OffManifoldSampler", "VIBEClassifier"),
    "skvibe.trigger_filter": ("TriggerFilter",),
    "skvibe.encoders": ("SelfSupervisedEncoder",),
    "sklearn.pipeline": ("FeatureUnion", "Pipeline"),
    "sklearn.preprocessing": (
        "MaxAbsScaler",
        "MinMaxScaler",
        "Normalizer",
        "PowerTransformer",
        "QuantileTransformer",
        "RobustScaler",
        "StandardScaler",
    ),
    "sklearn.decomposition": ("PCA", "TruncatedSVD"),
    "sklearn.feature_selection": ("VarianceThreshold",),
    "sklearn.impute": ("SimpleImputer",),
    "sklearn.kernel_approximation": ("Nystroem", "RBFSampler"),
    "sklearn.linear_model": ("LogisticRegression",),
    "sklearn.discriminant_analysis": ("LinearDiscriminantAnalysis",),
    "sklearn.neighbors": ("KNeighborsTransformer",),
    "imblearn.pipeline": ("Pipeline",),
}
NAMES = {f"{module}.{name}" for module, names in _CLASSES.items() for name in names}

# Parameters that name files of the machine at hand: never written, never read.
NEVER_STORED = {
    "skvibe.VIBEClassifier": ("checkpoint",),
    "sklearn.pipeline.Pipeline": ("memory",),
    "imblearn.pipeline.Pipeline": ("memory",),
    "skvibe.encoders.SelfSupervisedEncoder": ("checkpoint",),
}


def storable_class(name):
    """The class of a name on the list."""
    from skvibe._portable import ModelFileError

    if name not in NAMES:
        raise ModelFileError(
            f"it asks for {name!r}, which is not among the classes that a model file "
            "may hold"
        )
    module, _, cls = name.rpartition(".")
    try:
        return getattr(import_module(module), cls)
    except (ImportError, AttributeError) as error:
        raise ModelFileError(f"it needs {name}, which is not installed") from error


def class_name(value):
    """Name on the list of a class or of an object's class; None if it has none."""
    cls = value if isinstance(value, type) else type(value)
    root = cls.__module__.partition(".")[0]
    for module, names in _CLASSES.items():
        if cls.__name__ not in names or module.partition(".")[0] != root:
            continue
        # A namesake or a subclass is another class.
        if getattr(import_module(module), cls.__name__, None) is cls:
            return f"{module}.{cls.__name__}"
    return None


def module_name(module):
    """Name of an encoder that `build_module` can build from its weights, or None."""
    from skvibe import encoders

    for name in ("ResNet18", "SmallConvNet", "VGG11"):
        if type(module) is getattr(encoders, name):
            return name
    return None


def build_module(name, weights):
    """An encoder of this package, sized by its weights.

    Sizes come from the arrays, which the file really holds, so no file can ask for
    more memory than it has itself.
    """
    import torch

    from skvibe import encoders
    from skvibe._portable import ModelFileError

    kernels = [w for w in weights.values() if w.ndim == 4]
    if not kernels:
        raise ModelFileError(f"it holds no weights of a {name}")
    width, in_channels, side, _ = kernels[0].shape
    params = {"in_channels": in_channels, "width": width}
    if name == "SmallConvNet":
        params["n_stages"] = len(kernels)
    elif name == "ResNet18":
        params["stem"] = "cifar" if side == 3 else "imagenet"
    elif name != "VGG11":
        raise ModelFileError(f"there is no encoder {name!r}")
    # "meta": shapes without memory, and without drawing a random number.
    with torch.device("meta"):
        module = getattr(encoders, name)(**params)
    shapes = {key: value.shape for key, value in module.state_dict().items()}
    if shapes != {key: value.shape for key, value in weights.items()}:
        raise ModelFileError(f"its weights are not those of a {name}")
    return module.to_empty(device="cpu")
