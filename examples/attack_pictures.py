"""
What attacks look like
======================

Attacks on images, to measure defences with: the same five digits, as they are and with
each attack's trigger. ``attack.trigger`` plants in test rows exactly what
``attack.poison`` planted in training rows.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from skvibe.attacks import BadNets, Blend, FTrojan, WaNet

digits = load_digits()
images, labels = digits.images / 16, digits.target
attacks = {
    "as they are": None,
    "BadNets": BadNets(target=0, rate=0.1, size=2, random_state=0),
    "Blend": Blend(target=0, rate=0.1, random_state=0),
    "WaNet": WaNet(target=0, rate=0.1, random_state=0),
    "FTrojan": FTrojan(target=0, rate=0.1, random_state=0),
    "stronger Blend": Blend(target=0, rate=0.1, alpha=0.4, random_state=0),
}
rows = np.arange(10, 15)

figure, axes = plt.subplots(len(attacks), len(rows), figsize=(5.5, 7))
for line, (name, attack) in zip(axes, attacks.items(), strict=True):
    pictures = images[rows]
    if attack is not None:
        poisoned = attack.poison(images, labels)
        print(f"{name}: {poisoned.mask.sum()} of {len(images)} rows poisoned")
        pictures = attack.trigger(pictures)
    for ax, picture in zip(line, pictures, strict=True):
        ax.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
figure.tight_layout()
plt.show()
