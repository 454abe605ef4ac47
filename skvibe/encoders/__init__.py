"""Encoders: from images and texts to the feature vectors that the defences work on.

Two kinds. Torch modules to be trained (`ResNet18`, `VGG11`, `SmallConvNet`) and what
trains them without labels (`SelfSupervisedEncoder`); and frozen pretrained models as
scikit-learn transformers (`FoundationEncoder`, `SentenceEncoder`). Names resolve on
first use; kornia, transformers and sentence-transformers are loaded only by the part
that needs them (extras ``images`` and ``text``).
"""

from importlib import import_module

# name -> the module that defines it
_PUBLIC = {
    "CropFlip": "augment",
    "FoundationEncoder": "foundation",
    "ImageInput": "image_input",
    "ResNet18": "resnet",
    "SelfSupervisedEncoder": "self_supervised",
    "SentenceEncoder": "sentence",
    "SimCLRAugmentation": "augment",
    "SmallConvNet": "small",
    "VGG11": "vgg",
    "dataset_to_arrays": "images",
    "load_cifar10": "images",
    "load_image_folder": "images",
    "make_encoder": "make",
    "nt_xent_loss": "contrastive",
    "recalibrate_batch_norm": "batch_norm",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(import_module(f"skvibe.encoders.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'skvibe.encoders' has no attribute {name!r}")


def __dir__():
    return __all__
