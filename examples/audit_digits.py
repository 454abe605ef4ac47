"""
Audit: which rows, why, what to do
==================================

Poisoned digits again, this time for a person who wants no classifier but an answer
about the data.
"""

import matplotlib.pyplot as plt

import skvibe
from skvibe.datasets import load_poisoned_digits

data = load_poisoned_digits(rate=0.05, random_state=0)
pixels = [f"pixel {row},{column}" for row in range(8) for column in range(8)]
found = skvibe.audit(
    data.X,
    data.y,
    images=data.X.reshape(-1, 8, 8) / data.X.max(),
    feature_names=pixels,
)
print(found.summary())

# %%
# The table has a line for each row; `suspects` are those to look at, the most suspect
# first. ``to_html("report.html")`` writes them as a page with pictures of the digits.

columns = ["given_label", "clean_label", "poison_score", "removed_by", "action"]
print(found.suspects[columns].head(10).to_string())

# %%
# Here the truth is known, so the actions can be checked.

for action in ("drop", "relabel", "review", "keep"):
    rows = found.actions == action
    poisoned = data.poison_mask[rows].sum()
    print(f"{action:8s} {rows.sum():5d} rows, {poisoned:3d} of them poisoned")

# %%
# Suspects beside the most similar row that is trusted. All have the same bright corner.

shown = found.suspect_order()[:8]
figure, axes = plt.subplots(2, 8, figsize=(9, 3.2), layout="constrained")
for column, row in enumerate(shown):
    twin = found.nearest_trusted_rows[row]
    pair = ((row, "labelled"), (twin, "trusted"))
    for line, (number, word) in enumerate(pair):
        axes[line, column].imshow(data.X[number].reshape(8, 8), cmap="gray_r")
        axes[line, column].set_title(f"{word}\n{data.y[number]}", fontsize=9)
        axes[line, column].set_axis_off()
plt.show()
