"""
Defend an image classifier
==========================

A collection of images and labels comes from people you do not know. Some of them may
have planted a *backdoor*: a few images carry a small mark and the label of another
class. A network trained as usual works well, and calls every image with the mark
whatever the attacker wants.

Here the collection is scikit-learn's handwritten digits, and a tenth of the images are
poisoned: with a bright square in a corner, then with a pattern laid faintly over the
whole image. The defence has three parts:

1. an encoder is pretrained on the images alone, *labels unseen*, so no label can lie
   to it;
2. a filter looks for a group of images that lies apart from all others;
3. VIBE trains encoder and class prototypes together while it infers the clean labels.

It takes about a minute on one CPU core. Needs ``pip install "skvibe[images,plot]"``.
"""

import copy
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline

from skvibe import OffManifoldFilter, VIBEClassifier
from skvibe.attacks import BadNets, Blend
from skvibe.encoders import CropFlip, SelfSupervisedEncoder, SimCLRAugmentation
from skvibe.metrics import attack_success_rate

torch.set_num_threads(1)  # more threads do not help images this small
start = time.perf_counter()

# %%
# The images, and what the attacker does to them
# ----------------------------------------------
# Images are uint8 arrays of shape (n, height, width) or (n, height, width, 3). Your
# own come from ``skvibe.encoders.load_image_folder``.

digits = load_digits()
images = np.minimum(digits.images * 16, 255).astype(np.uint8)
X_clean, X_test, y_clean, y_test = train_test_split(
    images, digits.target, test_size=0.25, stratify=digits.target, random_state=0
)
attack = BadNets(target=0, rate=0.1, size=2, random_state=0)
poisoned = attack.poison(X_clean, y_clean)
X, y = poisoned.X, poisoned.y  # all that the defender sees
print(f"{len(y)} images, {poisoned.mask.sum()} of them poisoned")

# %%
# Bright pixels are drawn dark, as ink.

blend = Blend(target=0, rate=0.1, alpha=0.2, random_state=0)
blended = blend.poison(X_clean, y_clean)  # for the end
columns = poisoned.indices[:8]
figure, axes = plt.subplots(3, 8, figsize=(8, 3.4), layout="constrained")
shown = {
    "clean": X_clean[columns],
    "square": X[columns],
    "pattern": blend.trigger(X_clean[columns]),
}
for row, (name, some) in zip(axes, shown.items(), strict=True):
    for axis, image in zip(row, some, strict=True):
        axis.imshow(image, cmap="gray_r", vmin=0, vmax=255)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
figure.suptitle("Both marks turn these digits into zeros", fontsize=10)
plt.show()


def judge(name, predict, attack):
    """Accuracy on clean images, and how often the attacker gets what he wants."""
    accuracy = np.mean(predict(X_test) == y_test)
    triggered = predict(attack.trigger(X_test))
    success = attack_success_rate(y_test, triggered, target=0)
    print(f"{name:<12} accuracy {accuracy:.3f}   attack success {success:.3f}")


# %%
# 1. Pretraining without labels
# -----------------------------
# SimCLR makes two random views of every image and learns which belong together. Digits
# must not be mirrored; for photographs leave ``augment`` out, and train far longer.

ssl = SelfSupervisedEncoder(
    "small",
    augment=SimCLRAugmentation(in_channels=1, flip=False, min_area=0.4),
    max_epochs=40,
    random_state=0,
).fit(X)
print(
    f"loss {ssl.loss_curve_[0]:.2f} -> {ssl.loss_curve_[-1]:.2f}, "
    f"{ssl.images_per_second_:.0f} images/s"
)

# %%
# Training as usual
# -----------------
# The same encoder, start, augmentation and number of steps, with an ordinary linear
# head on the labels as given: the backdoor works.

augment = CropFlip(in_channels=1, flip=False)


def train_as_usual(X, y, encoder, iterations=600, batch_size=128):
    """Cross entropy and SGD; returns a function from images to labels."""
    torch.manual_seed(0)
    encoder = copy.deepcopy(encoder).train()
    model = torch.nn.Sequential(encoder, torch.nn.Linear(encoder.n_features_out, 10))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4
    )
    rows, given = torch.from_numpy(X), torch.from_numpy(y)
    for _ in range(iterations):
        batch = torch.randint(len(rows), (batch_size,))
        logits = model(augment(rows[batch].float()))
        loss = torch.nn.functional.cross_entropy(logits, given[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    return lambda X: model(torch.from_numpy(X)).argmax(dim=1).numpy()


judge("as usual", train_as_usual(X, y, ssl.encoder_), attack)

# %%
# 2 and 3. The filter and VIBE
# ----------------------------
# One scikit-learn pipeline. Both steps see the images through the pretrained encoder;
# VIBE goes on training its own copy. ``distance="classes"`` holds groups of images
# against the classes as given, which suits an encoder trained on these very images.


def defend(X, y, ssl):
    """The filter, then VIBE from end to end."""
    vibe = VIBEClassifier(
        encoder=ssl.encoder_,
        train_encoder=True,
        augment=augment,
        lr=0.01,
        batch_size=128,
        max_iter=600,
        e_step_period=20,
        random_state=0,
    )
    off_manifold = OffManifoldFilter(ssl, distance="classes", random_state=0)
    return Pipeline([("filter", off_manifold), ("vibe", vibe)]).fit(X, y)


pipe = defend(X, y, ssl)
judge("skvibe", pipe.predict, attack)

# %%
# What it found
# -------------
# Every image has a poison score and a clean label, in the order of the labels given.

vibe = pipe["vibe"]
suspects = np.flatnonzero(vibe.poison_scores_ > 0.5)
caught = poisoned.mask[suspects].sum()
recovered = np.mean(vibe.clean_labels_ == poisoned.y_true)
print(f"{pipe['filter'].n_removed_} images removed by the filter")
print(f"{len(suspects)} suspects, {caught} of the {poisoned.mask.sum()} poisoned")
print(f"clean label right for {recovered:.1%} of all images")

most = np.argsort(-vibe.poison_scores_, kind="stable")[:16]
figure, axes = plt.subplots(2, 8, figsize=(8, 2.6), layout="constrained")
for axis, row in zip(axes.flat, most, strict=True):
    axis.imshow(X[row], cmap="gray_r", vmin=0, vmax=255)
    axis.set_title(f"given {y[row]}\nclean {vibe.clean_labels_[row]}", fontsize=8)
    axis.set_axis_off()
figure.suptitle("The sixteen most suspect images", fontsize=10)
plt.show()

# %%
# Another trigger
# ---------------
# A pattern over the whole image, one fifth as strong as the image. Nothing above knew
# what the mark looks like, so nothing changes. The encoder is trained anew, because the
# images are others.

ssl.fit(blended.X)
judge("as usual", train_as_usual(blended.X, blended.y, ssl.encoder_), blend)
judge("skvibe", defend(blended.X, blended.y, ssl).predict, blend)
print(f"{time.perf_counter() - start:.0f} s in all")
