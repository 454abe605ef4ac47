"""Values as JSON and named arrays, and back: the inside of a model file.

Only data are written: numbers, strings, arrays, and the names of classes on a fixed
list (`skvibe._storable`). Reading never imports or calls anything that the file names
and the list does not.
"""

import math

import numpy as np

from skvibe._storable import NEVER_STORED, class_name, storable_class

_ARRAY_KINDS = "biuf"
_RANDOM_STATE = "MT19937"


class ModelFileError(ValueError):
    """A model file is damaged, of another format, or holds what is not allowed."""


class Encoder:
    """Turns values into JSON, and puts their arrays aside under numbered names."""

    def __init__(self):
        self.arrays = {}
        self.slots = []
        self._prefix = ""

    def encode(self, value, path):
        """JSON of ``value``; ``path`` says where it is, for messages and slots."""
        if value is None or isinstance(value, (bool, str)):
            return value
        for kind, encode in (
            (np.generic, self._scalar),
            (int, self._integer),
            (float, self._float),
            (np.ndarray, self._array),
            (np.random.RandomState, self._random_state),
            ((list, tuple), self._sequence),
            (dict, self._dict),
        ):
            if isinstance(value, kind):
                return encode(value, path)
        return self._object(value, path)

    def _integer(self, value, path):
        return int(value)

    def _float(self, value, path):
        if math.isfinite(value):
            return float(value)
        return {"is": "float", "value": repr(float(value))}

    def _scalar(self, value, path):
        return {"is": "scalar", "value": self._array(np.asarray(value), path)}

    def _array(self, value, path):
        if type(value) not in (np.ndarray, np.memmap):
            raise TypeError(_refusal(value, path))
        if value.dtype.kind in "UO":
            items = [self.encode(item, path) for item in value.ravel().tolist()]
            native = value.dtype.newbyteorder("=")
            dtype = native.str if value.dtype.kind == "U" else "O"
            return {
                "is": "objects",
                "dtype": dtype,
                "shape": list(value.shape),
                "items": items,
            }
        if value.dtype.kind not in _ARRAY_KINDS or value.dtype.itemsize > 8:
            raise TypeError(_refusal(value, path, f"array of {value.dtype}"))
        name = f"array{len(self.arrays)}"
        # In memory a column-major array multiplies with other rounding errors.
        fortran = value.flags.f_contiguous and not value.flags.c_contiguous
        native = value.dtype.newbyteorder("=")
        self.arrays[name] = np.array(value, dtype=native, order="C")
        return {"is": "array", "name": name, "fortran": bool(fortran)}

    def _random_state(self, value, path):
        _, keys, *rest = value.get_state()
        return {
            "is": "random_state",
            "keys": self._array(keys, path),
            "rest": [self.encode(item, path) for item in rest],
        }

    def _sequence(self, value, path):
        if type(value) not in (list, tuple) and type(value).__name__ != "History":
            raise TypeError(_refusal(value, path))
        items = [self.encode(item, f"{path}[{i}]") for i, item in enumerate(value)]
        kind = "tuple" if isinstance(value, tuple) else "list"
        if type(value).__name__ == "History":
            kind = "history"
        return {"is": kind, "items": items}

    def _dict(self, value, path):
        if type(value) is not dict:
            raise TypeError(_refusal(value, path))
        pairs = [
            [self.encode(key, path), self.encode(item, f"{path}[{key!r}]")]
            for key, item in value.items()
        ]
        return {"is": "dict", "pairs": pairs}

    def _object(self, value, path):
        module = type(value).__module__
        if module.partition(".")[0] == "torch" or _is_module(value):
            return self._torch(value, path)
        name = class_name(value)
        if isinstance(value, type) and name is not None:
            return {"is": "class", "class": name}
        if name is not None:
            return self._estimator(value, name, path)
        if _is_optimizer(value):
            return {"is": "optimizer", "name": value.__name__}
        if path == f"{self._prefix}encoder":
            # The user gives it again when loading.
            self.slots.append(path)
            return {"is": "slot", "name": path}
        raise TypeError(_refusal(value, path))

    def _torch(self, value, path):
        import torch

        from skvibe._net_state import to_array

        if isinstance(value, torch.nn.Module):
            from skvibe._storable import module_name

            weights = {
                name: self._array(to_array(weight), path)
                for name, weight in value.state_dict().items()
            }
            slot = f"{self._prefix}encoder"
            name = module_name(value)
            if name is None:
                self.slots.append(slot)
            return {
                "is": "module",
                "class": name,
                "slot": slot,
                "weights": weights,
                "training": value.training,
                "channels_last": _is_channels_last(value),
            }
        if isinstance(value, torch.device):
            return {"is": "device", "name": str(value)}
        if _is_optimizer(value):
            return {"is": "optimizer", "name": value.__name__}
        raise TypeError(_refusal(value, path))

    def _estimator(self, value, name, path):
        outer, prefix = self._prefix, f"{path}__" if path else ""
        self._prefix = prefix
        own = value.get_params(deep=False)
        never = NEVER_STORED.get(name, ())
        params = {
            key: None if key in never else self._param(value, key, item, prefix)
            for key, item in own.items()
        }
        state = dict(vars(value))
        net = state.pop("net_", None)
        fitted = {
            key: self.encode(item, prefix + key)
            for key, item in sorted(state.items())
            if key not in own and not key.startswith("_parent_callback")
        }
        if net is not None and name == "skvibe.VIBEClassifier":
            from skvibe._net_state import describe_net

            fitted["net_"] = self.encode(describe_net(net), prefix + "net_")
            # It is part of the net's description.
            fitted.pop("history_", None)
        self._prefix = outer
        return {"is": "estimator", "class": name, "params": params, "fitted": fitted}

    def _param(self, owner, key, value, prefix):
        if key == "steps" and isinstance(value, list):
            # Steps are told apart by their names.
            items = [
                {
                    "is": "tuple",
                    "items": [name, self.encode(step, f"{prefix}{name}")],
                }
                for name, step in value
            ]
            return {"is": "list", "items": items}
        return self.encode(value, prefix + key)


class Decoder:
    """Turns JSON and named arrays back into values.

    Parameters
    ----------
    arrays : dict of str to ndarray
        By name.
    encoders : torch.nn.Module, callable, dict or None
        What the user gave for slots.
    """

    def __init__(self, arrays, encoders=None):
        self.arrays = arrays
        self.encoders = encoders

    def decode(self, node):
        """Value of a JSON node."""
        if node is None or isinstance(node, (bool, str, int, float)):
            return node
        if not isinstance(node, dict) or not isinstance(node.get("is"), str):
            raise ModelFileError("a value is written in an unknown way")
        decode = self._BY_KIND.get(node["is"])
        if decode is None:
            raise ModelFileError(f"a value is of the unknown kind {node['is']!r}")
        return decode(self, node)

    def _float(self, node):
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[node["value"]]

    def _scalar(self, node):
        return self.decode(node["value"])[()]

    def _array(self, node):
        # Each once: a small file must not become a large model.
        value = self.arrays.pop(node["name"])
        return np.array(value, order="F" if node["fortran"] else "C")

    def _objects(self, node):
        items, shape = [self.decode(item) for item in node["items"]], node["shape"]
        if node["dtype"] == "O":
            array = np.empty(len(items), dtype=object)
            array[:] = items
            return array.reshape(shape)
        if not node["dtype"].startswith(("<U", ">U")):
            raise ModelFileError(f"strings are of the unknown type {node['dtype']!r}")
        if not all(isinstance(item, str) for item in items):
            raise ModelFileError("an array of strings holds something else")
        if int(node["dtype"][2:]) * len(items) > 64 * (1000 + sum(map(len, items))):
            raise ModelFileError("an array of strings claims a huge size")
        return np.array(items, dtype=node["dtype"]).reshape(shape)

    def _random_state(self, node):
        random_state = np.random.RandomState()
        rest = [self.decode(item) for item in node["rest"]]
        random_state.set_state((_RANDOM_STATE, self._array(node["keys"]), *rest))
        return random_state

    def _list(self, node):
        return [self.decode(item) for item in node["items"]]

    def _tuple(self, node):
        return tuple(self._list(node))

    def _dict(self, node):
        return {self.decode(key): self.decode(value) for key, value in node["pairs"]}

    def _history(self, node):
        from skorch.history import History

        return History(self._list(node))

    def _device(self, node):
        import torch

        return torch.device(node["name"])

    def _optimizer(self, node):
        import torch

        found = getattr(torch.optim, node["name"], None)
        if not _is_optimizer(found):
            raise ModelFileError(f"torch has no optimiser {node['name']!r}")
        return found

    def _class(self, node):
        return storable_class(node["class"])

    def _slot(self, node):
        return self._given(node["name"])

    def _given(self, name):
        encoders = self.encoders
        if isinstance(encoders, dict):
            encoders = encoders.get(name)
        if encoders is None:
            raise ModelFileError(
                f"it holds weights for {name!r} but not the code of it. Pass "
                f"encoder=... (the module itself, or a dict with the key {name!r})"
            )
        return encoders

    def _module(self, node):
        import copy

        import torch

        from skvibe._storable import build_module

        weights = {
            name: torch.from_numpy(self._array(value))
            for name, value in node["weights"].items()
        }
        if node["class"] is None:
            module = copy.deepcopy(self._given(node["slot"]))
            if not isinstance(module, torch.nn.Module):
                raise ModelFileError(
                    f"encoder for {node['slot']!r} must be a torch.nn.Module, got "
                    f"{type(module).__name__}"
                )
        else:
            module = build_module(node["class"], weights)
        if node["channels_last"]:
            # Another layout in memory gives other rounding errors.
            module.to(memory_format=torch.channels_last)
        try:
            module.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise ModelFileError(
                f"the weights do not fit the encoder for {node['slot']!r}: {error}"
            ) from error
        return module.train(bool(node["training"]))

    def _estimator(self, node):
        cls = storable_class(node["class"])
        params = {key: self.decode(value) for key, value in node["params"].items()}
        unknown = sorted(params.keys() - cls._get_param_names())
        if unknown:
            raise ModelFileError(
                f"{cls.__name__} has no parameter {unknown[0]!r}: the file was written "
                "by another version"
            )
        for key in NEVER_STORED.get(node["class"], ()):
            if params.get(key) is not None:
                raise ModelFileError(f"{cls.__name__}.{key} may not be set by a file")
        estimator = cls(**params)
        fitted = {key: self.decode(value) for key, value in node["fitted"].items()}
        for key in fitted:
            _check_attribute(cls, key)
        net = fitted.pop("net_", None)
        vars(estimator).update(fitted)
        if net is not None:
            _restore_net(estimator, net)
        return estimator

    _BY_KIND = {  # noqa: RUF012
        "float": _float,
        "scalar": _scalar,
        "array": _array,
        "objects": _objects,
        "random_state": _random_state,
        "list": _list,
        "tuple": _tuple,
        "dict": _dict,
        "history": _history,
        "device": _device,
        "optimizer": _optimizer,
        "class": _class,
        "slot": _slot,
        "module": _module,
        "estimator": _estimator,
    }


def _check_attribute(cls, name):
    """A file may set data on an estimator; it may not replace its methods."""
    hides = callable(getattr(cls, name, None)) or isinstance(
        getattr(cls, name, None), property
    )
    if not name.isidentifier() or name.startswith("__") or hides:
        raise ModelFileError(f"{cls.__name__} may not be given an attribute {name!r}")


def _restore_net(vibe, description):
    from skvibe._net_state import check_fitted_shapes, restore_net
    from skvibe._parameters import check_parameters

    check_parameters(vibe)
    check_fitted_shapes(vibe)
    encoder = vibe._encoder if vibe.train_encoder else None
    vibe.net_ = restore_net(vibe, description, encoder)
    vibe.history_ = vibe.net_.history


def _is_module(value):
    import sys

    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _is_channels_last(module):
    import torch

    layout = torch.channels_last
    return any(
        weight.ndim == 4
        and weight.is_contiguous(memory_format=layout)
        and not weight.is_contiguous()
        for weight in module.state_dict().values()
    )


def _is_optimizer(value):
    import sys

    torch = sys.modules.get("torch")
    return (
        torch is not None
        and isinstance(value, type)
        and issubclass(value, torch.optim.Optimizer)
        and getattr(torch.optim, value.__name__, None) is value
    )


def _refusal(value, path, what=None):
    return (
        f"{path or 'the estimator'} holds {what or f'a {type(value).__name__}'}, which "
        "cannot be stored without code. Remove it, or use joblib for files that never "
        "leave your hands."
    )
