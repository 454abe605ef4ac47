"""
Why balance keeps the poison out
================================

The E-step assigns all rows to clean labels at once, and every class must get its share.
Two classes of points; the attacker took 60 from class 1, moved them a little, and
labelled them 0.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from skvibe.transport import solve_transport

rng = np.random.default_rng(0)
centres = np.array([[-1.0, 0.0], [1.0, 0.0]])
true = np.repeat([0, 1], 150)
points = centres[true] + 0.35 * rng.standard_normal((300, 2))
given = true.copy()
given[240:] = 0
points[240:, 1] += 0.8

# %%
# How well does clean label l explain the row? A part for the place of the row, a part
# for the label that came with it. The second one is strong: labels explain themselves.

place = -((points[:, None] - centres) ** 2).sum(axis=2)
place -= np.log(np.exp(place).sum(axis=1, keepdims=True))
label = np.where(given[:, None] == [0, 1], np.log(0.99), np.log(0.01))
log_p = torch.from_numpy(place + label)

# %%
# Row by row, each row takes the label that explains it best. With transport, both
# classes must get half of the rows; those that leave class 0 are the ones that look
# least like it.

alone = log_p.argmax(dim=1).numpy()
balanced = solve_transport(log_p, np.array([0.5, 0.5]), lam=25.0).labels.numpy()
for name, found in {"row by row": alone, "balanced": balanced}.items():
    right = (found == true).mean()
    poison = (found[240:] == true[240:]).mean()
    print(f"{name:11s} right for {right:.0%} of all rows, {poison:.0%} of the poison")

figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True, layout="constrained")
pictures = {"labels given": given, "row by row": alone, "balanced": balanced}
for ax, (name, found) in zip(axes, pictures.items(), strict=True):
    for code, marker, colour in ((0, "o", "#0072B2"), (1, "^", "#E69F00")):
        shown = found == code
        ax.scatter(*points[shown].T, s=14, c=colour, marker=marker, label=f"{code}")
    ax.set(title=name, xticks=[], yticks=[])
axes[0].legend(title="label", loc="lower left")
plt.show()
