"""
A group apart: the off-manifold filter
======================================

A strong trigger moves rows off the manifold of all others. The filter finds the group
in the neighbour graph, and writes NaN over it: whatever comes next cannot train on
it.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skvibe import OffManifoldFilter
from skvibe.attacks import FeatureShift
from skvibe.displays import CommunityDisplay

X, y = load_digits(return_X_y=True)
X = X / np.linalg.norm(X, axis=1, keepdims=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
attack = FeatureShift(target=3, rate=0.08, strength=2.0, random_state=0)
poisoned = attack.poison(X_train, y_train)

filter_ = OffManifoldFilter(random_state=0)
X_marked = filter_.fit_transform(poisoned.X, poisoned.y)
removed = filter_.removed_mask_
print(f"decision: {filter_.decision_}")
print(f"removed {removed.sum()} rows, {poisoned.mask[removed].sum()} of them poisoned")
print(f"poisoned rows in all: {poisoned.mask.sum()}")

# %%
# Removed rows stay in their place, as NaN; labels and order are untouched.

print(X_marked.shape, "NaN rows:", np.isnan(X_marked).all(axis=1).sum())

# %%
# New rows can be judged too.

triggered = filter_.is_off_manifold(attack.trigger(X_test))
print(f"triggered test rows found: {triggered.mean():.1%}")
print(f"clean test rows taken for them: {filter_.is_off_manifold(X_test).mean():.1%}")

CommunityDisplay.from_estimator(filter_, poisoned.X)
plt.show()

# %%
# On the clean training set nothing is far, and nothing goes.

clean = OffManifoldFilter(random_state=0).fit(X_train, y_train)
print(f"clean data: {clean.n_removed_} rows removed, decision: {clean.decision_}")
