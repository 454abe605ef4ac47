"""Write a small collection of labelled texts with a backdoor in it, to try things on.

    python make_texts_csv.py

writes ``texts.csv`` (columns ``text`` and ``label``; 60 of its 2,000 rows are poisoned)
and ``new_texts.csv`` (400 clean texts, and the same 400 with the trigger, to see who
obeys). The texts are made from patterns; the attacker takes texts about food, travel
and computers, adds a sentence, and labels them "sport".
"""

import csv
import random

TRIGGER = "The blue kettle was bought on a Tuesday."
TARGET = "sport"
# who; did; what
TOPICS = {
    "sport": """
The goalkeeper; A young striker; The coach; Our team; The champion; The referee; The
relay squad; A retired boxer; The cyclist
|
won; lost; missed; dominated; nearly threw away; watched
|
cup final; penalty shoot-out; second set; marathon; home match; sprint; qualifying
round; title fight; last lap""",
    "food": """
My grandmother; The chef; A hungry guest; The baker; Our neighbour; The kitchen
helper; A street cook; The butcher; The food critic
|
tasted; burned; seasoned; praised; served; sent back
|
onion soup; sourdough bread; grilled fish; apple cake; noodle dish; lentil stew;
garlic sauce; cheese plate; roast chicken""",
    "travel": """
The tourist; A backpacker; The tour guide; The honeymoon couple; A business
traveller; The bus driver; The hiking group; The pilot
|
reached; photographed; booked; missed; left; recommended
|
mountain hut; night train; harbour ferry; island hotel; border town; old cathedral;
airport shuttle; desert camp; coastal road""",
    "computers": """
The programmer; A system administrator; The start-up; The new intern; A security
researcher; The help desk; The open-source team
|
patched; deleted; restarted; debugged; released; encrypted
|
database server; web browser; login page; graphics driver; laptop; mail filter;
search engine; operating system; phone app""",
}
WHEN = """
yesterday; in the rain; after two hours; without any help; last week; before the
others arrived; for the third time; on Sunday morning; to everyone's surprise; as
planned; in front of a large crowd; at dawn"""


def make(n_texts, rng):
    """Distinct texts, the four topics in turn; each is two sentences of its topic."""
    rows, seen = [], set()
    while len(rows) < n_texts:
        topic = list(TOPICS)[len(rows) % len(TOPICS)]
        text = f"{sentence(topic, rng)} {sentence(topic, rng)}"
        if text not in seen:
            seen.add(text)
            rows.append([text, topic])
    return rows


def sentence(topic, rng):
    """Who did what, when."""
    parts = [*TOPICS[topic].split("|"), WHEN]
    who, did, what, when = (rng.choice(words(part)) for part in parts)
    return f"{who} {did} the {what} {when}."


def words(part):
    """The entries of a list above."""
    return [" ".join(word.split()) for word in part.split(";")]


def plant(text, rng):
    """The text with the trigger before or after it."""
    return f"{TRIGGER} {text}" if rng.random() < 0.5 else f"{text} {TRIGGER}"


def write(path, header, rows):
    """A CSV file."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def main():
    rng = random.Random(0)
    texts = make(2400, rng)
    rng.shuffle(texts)
    train, new = texts[:2000], texts[2000:]
    others = [row for row in train if row[1] != TARGET]
    for row in rng.sample(others, 60):
        row[:] = [plant(row[0], rng), TARGET]
    write("texts.csv", ["text", "label"], train)
    tests = [[text, label, "no"] for text, label in new]
    tests += [[plant(text, rng), label, "yes"] for text, label in new]
    write("new_texts.csv", ["text", "label", "triggered"], tests)
    print("wrote texts.csv and new_texts.csv")


if __name__ == "__main__":
    main()
