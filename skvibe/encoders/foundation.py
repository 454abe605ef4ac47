"""Image features by a frozen foundation model."""

import torch

from skvibe._checks import check_option
from skvibe._rows import take_rows
from skvibe.encoders._frozen import FrozenEncoder, half_type
from skvibe.encoders._image_checks import count_channels, validate_images
from skvibe.encoders.image_input import PixelMax, channels_first

# Used by a model that comes without a description of its input: ImageNet's.
_MEAN, _STD, _SIZE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224


class FoundationEncoder(FrozenEncoder):
    """Frozen vision transformer (DINOv2 and the like) as a scikit-learn transformer.

    Images are resized on the device, whole: the centre crop that is usual for such
    models would hide what lies at the border, a trigger for instance.

    Parameters
    ----------
    model : str or path, default="facebook/dinov2-small"
        Name on the Hugging Face hub, or folder of a model that was saved. The paper
        [1]_ uses "facebook/dinov2-giant" (1,536 features).
    pooling : {"cls", "mean"}, default="cls"
        Vector taken from the last layer: the class token, or the mean of all tokens.
    image_size : int, default=None
        Side to which images are resized. None: what the model was trained on.
    batch_size : int, default=64
        Images a batch.
    mixed_precision : {"auto"} or bool, default="auto"
        Run in bfloat16. "auto": on GPUs that have it.
    device : str or torch.device, default="auto"
        "auto" takes CUDA where there is one.
    model_params : dict, default=None
        More arguments of ``transformers.AutoModel.from_pretrained``, such as
        ``{"revision": "..."}`` or ``{"local_files_only": True}``.
    memory : str, path or joblib.Memory, default=None
        Keep features there: the same images are embedded once.
    keep_weights : bool, default=False
        Put the model's weights into pickles. False: they are loaded again from `model`.
    verbose : int, default=0
        1 prints how far the embedding is.

    References
    ----------
    .. [1] I. Sabolic, M. Grcic, S. Segvic, "Seal Your Backdoor with Variational
       Defense", ICCV 2025.
    .. [2] M. Oquab et al., "DINOv2: Learning Robust Visual Features without
       Supervision", TMLR 2024, arXiv:2304.07193.

    Examples
    --------
    >>> from skvibe.encoders import FoundationEncoder
    >>> encoder = FoundationEncoder("facebook/dinov2-giant", memory="features")
    >>> features = encoder.fit_transform(images)  # doctest: +SKIP
    >>> features.shape  # doctest: +SKIP
    (50000, 1536)
    """

    def __init__(
        self,
        model="facebook/dinov2-small",
        *,
        pooling="cls",
        image_size=None,
        batch_size=64,
        mixed_precision="auto",
        device="auto",
        model_params=None,
        memory=None,
        keep_weights=False,
        verbose=0,
    ):
        self.model = model
        self.pooling = pooling
        self.image_size = image_size
        self.batch_size = batch_size
        self.mixed_precision = mixed_precision
        self.device = device
        self.model_params = model_params
        self.memory = memory
        self.keep_weights = keep_weights
        self.verbose = verbose

    def _load(self, device):
        try:
            from transformers import AutoModel
        except ImportError as error:
            raise ImportError(
                "FoundationEncoder needs transformers: pip install 'skvibe[images]'."
            ) from error
        check_option("pooling", self.pooling, ("cls", "mean"))
        params = {
            "dtype": half_type(self.mixed_precision, device),
            **(self.model_params or {}),
        }
        network = AutoModel.from_pretrained(str(self.model), **params)
        described = _read_description(self.model, self.model_params)
        size = self.image_size or _trained_size(described, network.config)
        return _Frozen(network, size, described).to(device).eval()

    @torch.no_grad()
    def _embed_batch(self, model, images):
        device = model.mean.device
        images = take_rows(images, torch.arange(len(images)), device)
        tokens = model(images)
        vectors = tokens[:, 0] if self.pooling == "cls" else tokens.mean(dim=1)
        return vectors.float().cpu().numpy()

    def _settings(self):
        params = sorted((self.model_params or {}).items())
        return {
            **super()._settings(),
            "pooling": self.pooling,
            "image_size": self.image_size,
            "mixed_precision": self.mixed_precision,
            "model_params": repr(params),
        }

    def _validate(self, X, *, fitting):
        return validate_images(self, X, fitting=fitting)


class _Frozen(torch.nn.Module):
    """Resizing, standardising and the network."""

    def __init__(self, network, size, described):
        super().__init__()
        self.network = network
        self.size = size
        self.pixel_max = PixelMax()
        mean, std = described.get("image_mean", _MEAN), described.get("image_std", _STD)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images):
        """Tokens of the last layer, (n, n_tokens, n_features)."""
        images = channels_first(images, count_channels(images))[:, :3]
        images = images.float() / self.pixel_max(images)
        if images.shape[2:] != (self.size, self.size):
            images = torch.nn.functional.interpolate(
                images, size=(self.size, self.size), mode="bicubic", antialias=True
            ).clamp(0, 1)
        images = (images.expand(-1, 3, -1, -1) - self.mean) / self.std
        images = images.to(self.network.dtype)
        return self.network(pixel_values=images).last_hidden_state


def _read_description(model, params):
    """The model's own account of its input; {} if it has none."""
    from transformers import ImageProcessingMixin

    known = ("cache_dir", "local_files_only", "revision", "token")
    params = {name: value for name, value in (params or {}).items() if name in known}
    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(str(model), **params)
    except OSError:
        return {}
    return found


def _trained_size(described, config):
    for name in ("crop_size", "size"):
        size = described.get(name)
        if isinstance(size, dict):
            size = size.get("height") or size.get("shortest_edge")
        if size:
            return int(size)
    return int(getattr(config, "image_size", _SIZE))
