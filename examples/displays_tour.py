"""
What was found, in six pictures
===============================

Every display has ``from_estimator`` for a fitted model, ``from_predictions`` for
arrays, and draws on the axes given as ``ax=``.
"""

import matplotlib.pyplot as plt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from skvibe import OffManifoldFilter, VIBEClassifier
from skvibe.datasets import load_poisoned_digits
from skvibe.displays import (
    AccuracyAttackDisplay,
    CommunityDisplay,
    EMProgressDisplay,
    LatentSpaceDisplay,
    PoisoningRuleDisplay,
    PoisonScoreDisplay,
)
from skvibe.verdict import fill_clean_labels, merge_poison_scores

data = load_poisoned_digits(random_state=0)
pipe = Pipeline(
    [
        ("filter", OffManifoldFilter(random_state=0)),
        ("vibe", VIBEClassifier(random_state=0)),
    ]
).fit(data.X, data.y)

# %%
# Which class holds the suspects?
# -------------------------------
# One line for each given class. In class 0 a hump lies above the threshold: the poison.
# `merge_poison_scores` asks all steps of the pipeline, the filters too.

PoisonScoreDisplay.from_predictions(data.y, merge_poison_scores(pipe))
plt.show()

# %%
# Where do they lie?
# ------------------
# Rows and prototypes on the unit sphere, seen where the classes differ most. There are
# ``projection="pca"``, "umap" (``pip install "skvibe[umap]"``) and coordinates of your
# own.

LatentSpaceDisplay.from_estimator(pipe, data.X, data.y)
plt.show()

# %%
# What did the filter see?
# ------------------------
# Communities of the neighbour graph, and how far each lies from the others. Here none
# is far: a bright corner does not move digits off their manifold, and nothing was
# removed.

CommunityDisplay.from_estimator(pipe, data.X)
plt.show()

# %%
# What was turned into what?
# --------------------------
# Rows by clean and by given label: column 0 holds rows of all other classes.
# `fill_clean_labels` has a label for removed rows as well.

PoisoningRuleDisplay.from_predictions(data.y, fill_clean_labels(pipe, data.X))
plt.show()

# %%
# Did the training settle?
# ------------------------
# EM ran until no E-step changed a label any more.

EMProgressDisplay.from_estimator(pipe)
plt.show()

# %%
# Compared with a model trained as usual
# --------------------------------------
# Accuracy on clean digits against the share of triggered ones that are read as 0. This
# needs a trigger that you know.

usual = LogisticRegression(C=10, max_iter=1000).fit(data.X, data.y)
models = {"as usual": usual, "filter + VIBE": pipe}
AccuracyAttackDisplay.from_estimator(
    models, data.X_test, data.y_test, data.X_triggered, target=data.target
)
plt.show()
