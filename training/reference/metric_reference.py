"""Reference values for `training/tests/metrics.rs`, by the benchmarks' own programs.

    python metric_reference.py COMPUTE_SCORE.py UTILS_QA.py [SQUAD_DEV.json] > metrics.json

COMPUTE_SCORE.py: SQuAD's evaluate-v1.1, as `metrics/squad/compute_score.py` of Hugging Face's evaluate.
UTILS_QA.py: `examples/pytorch/question-answering/utils_qa.py` of Hugging Face's transformers.
SQUAD_DEV.json: dev-v1.1.json; without it the whole set's numbers are left out.

Classification and correlation are scikit-learn's and SciPy's, called as evaluate's `glue` does. numpy
sorts are made stable, so that ties have one order. Offsets of answers are in characters.
"""

import hashlib
import importlib.util
import json
import math
import random
import sys
import unicodedata
import warnings

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

warnings.simplefilter("ignore")


def load(path: str, name: str):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def number(value) -> float | None:
    value = float(value)
    return None if math.isnan(value) else value


def classification(rng: random.Random) -> list[dict]:
    pairs = [
        ([0], [0]),
        ([1], [1]),
        ([1], [0]),
        ([0, 0, 0], [0, 1, 0]),  # constant predictions
        ([1, 1, 1], [0, 1, 0]),
        ([0, 1, 0], [1, 1, 1]),  # constant labels
        ([0, 0, 0], [0, 0, 0]),  # class 1 nowhere
        ([1, 1, 1], [0, 0, 0]),
        ([1, 0, 1, 0], [0, 1, 0, 1]),  # always wrong
        ([0, 2, 2, 1], [0, 2, 1, 1]),
        ([7, 7, 4_000_000_000], [7, 4_000_000_000, 4_000_000_000]),
    ]
    for classes in [2, 2, 2, 3, 3, 77]:
        for n in [2, 5, 17, 300]:
            labels = [rng.randrange(classes) for _ in range(n)]
            # Mostly right, and one class seldom predicted.
            guesses = [y if rng.random() < 0.7 else rng.randrange(classes) for y in labels]
            pairs.append((guesses, labels))
    rows = []
    for predictions, labels in pairs:
        p, y = np.array(predictions), np.array(labels)
        binary = max(predictions + labels) < 2
        rows.append(
            {
                "predictions": predictions,
                "labels": labels,
                "accuracy": float((p == y).mean()),
                "f1": float(f1_score(y_true=y, y_pred=p)) if binary else None,
                "matthews": float(matthews_corrcoef(y, p)),
            }
        )
    return rows


def correlation(rng: random.Random) -> list[dict]:
    pairs = [
        ([0.1, 0.1, 0.1], [1.0, 2.0, 4.0]),  # constant, and not equal to its rounded mean
        ([1.0, 2.0, 4.0], [5.0, 5.0, 5.0]),
        ([1.0, 2.0], [1.0, 3.0]),
        ([1.0, 2.0], [3.0, 1.0]),
        ([2.5, 2.5, 1.0, 4.0], [0.0, 1.0, 1.0, 5.0]),  # ties on both sides
        ([1e200, 2e200, 4e200], [1.0, 2.0, 3.0]),  # squares overflow
        ([1e-200, 2e-200, 4e-200], [1.0, 2.0, 3.0]),  # squares vanish
        ([0.0, -0.0, 1.0], [1.0, 2.0, 3.0]),  # zeros are a tie
    ]
    for n in [3, 10, 300]:
        for steps in [None, 4, 26]:
            labels = [rng.uniform(0, 5) for _ in range(n)]
            scores = [0.6 * y + rng.gauss(0, 1) for y in labels]
            if steps:  # quantised: many ties
                labels = [round(y * steps / 5) * 5 / steps for y in labels]
                scores = [round(s * steps / 5) * 5 / steps for s in scores]
            pairs.append(([round(s, 6) for s in scores], [round(y, 6) for y in labels]))
    return [
        {
            "predictions": x,
            "labels": y,
            "pearson": number(pearsonr(x, y)[0]),
            "spearman": number(spearmanr(x, y)[0]),
        }
        for x, y in pairs
    ]


ANSWERS = [
    ("", [""]),
    ("", ["the"]),
    ("The a an", ["AN"]),
    ("the", ["the Who"]),
    ("The Who", ["who"]),
    ("...", ["!?"]),
    ("...", ["x"]),
    ("a-b", ["ab"]),
    ("a - b", ["b"]),
    ("A.N. Other", ["other"]),
    ("it's the_end", ["its theend"]),
    ("the\u2019s", ["\u2019s"]),  # a curly apostrophe is no ASCII punctuation, but ends a word
    ("\u201cthe\u201d end", ["\u201c \u201d end"]),
    ("the\u2014end", ["\u2014end"]),
    ("caf\u00e9", ["cafe"]),  # an accent counts
    ("caf\u00e9", ["cafe\u0301"]),  # composed and decomposed differ
    ("a\u0301", ["\u0301"]),  # a combining mark is not part of a word
    ("\u00e1", ["a"]),
    ("CAF\u00c9", ["caf\u00e9"]),
    ("two\u00a0words", ["two words"]),  # non-breaking space
    ("two\u2009words\u3000here", ["two words here"]),
    ("two\u200bwords", ["two words"]),  # zero width: no space
    ("two\u001cwords", ["two words"]),  # a separator: a space in Python
    ("two\u0085words", ["two words"]),
    ("two\ufeffwords", ["two words"]),
    ("the\u200dend", ["\u200dend"]),  # a joiner is no word character
    ("\u0130stanbul", ["istanbul"]),  # dotted capital I becomes i and a combining dot
    ("\u0130stanbul", ["i\u0307stanbul"]),
    ("DIYARBAKIR", ["diyarbak\u0131r"]),  # dotless i stays apart
    ("\u039f\u0394\u039f\u03a3", ["\u03bf\u03b4\u03bf\u03c2"]),  # a final sigma
    ("\u03a3.", ["\u03c3"]),
    ("\u039f\u03a3 \u039f\u03a3.\u0391", ["\u03bf\u03c2 \u03bf\u03c3\u03b1"]),
    ("STRASSE", ["stra\u00dfe"]),
    ("a\u00b2", ["\u00b2"]),  # a superscript is a word character: no article
    ("a\u2160", ["\u2160"]),
    ("a\u24b6", ["\u24d0"]),  # a circled letter is a symbol
    ("a\u0903", ["\u0903"]),  # a vowel sign is a mark
    ("the\U0001f600end", ["\U0001f600end"]),
    ("\u4e00 a \u4e8c", ["\u4e00 \u4e8c"]),
    ("1,000", ["1000"]),
    ("$5", ["5"]),
    ("x x x", ["x"]),
    ("x", ["x x x y"]),
    ("x x y", ["x y y"]),
    ("in the 1990s", ["1990s", "the 1990s", "during the 1990s"]),
    ("right", ["wrong", "", "Right!"]),
    ("\n\tSaint  Bernadette \r\n Soubirous ", ["Saint Bernadette Soubirous"]),
]


def squad(score) -> dict:
    def one(prediction: str, golds: list[str]) -> dict:
        best = lambda f: score.metric_max_over_ground_truths(f, prediction, golds)
        return {
            "prediction": prediction,
            "golds": golds,
            "normalized": score.normalize_answer(prediction),
            "exact": best(score.exact_match_score),
            "f1": float(best(score.f1_score)),
        }

    rows = [one(prediction, golds) for prediction, golds in ANSWERS]
    # Everybody's answer against everybody's gold: what should not match does not.
    everybody = [one(prediction, [gold]) for prediction, _ in ANSWERS for _, (gold, *_) in ANSWERS]
    return {"answers": rows, "everybody": hashed_scores(everybody)}


def hashed_scores(rows: list[dict]) -> str:
    lines = [f"{int(row['exact'])} {np.float64(row['f1']).tobytes()[::-1].hex()}\n" for row in rows]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def characters(score) -> list[dict]:
    """The normalisation of every assigned character next to articles, hashed in blocks of 1024."""
    blocks = []
    for first in range(0, 0x110000, 1024):
        assigned = [
            c
            for c in range(first, first + 1024)
            if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")
        ]
        if not assigned:
            continue
        text = "".join(
            score.normalize_answer(f"x{c}the an{c} {c}a{c}y") + "\n" for c in map(chr, assigned)
        )
        runs = []
        for c in assigned:
            if runs and runs[-1][1] == c:
                runs[-1][1] = c + 1
            else:
                runs.append([c, c + 1])
        blocks.append({"runs": runs, "sha256": hashlib.sha256(text.encode()).hexdigest()})
    return blocks


def spans(qa, rng: random.Random) -> list[dict]:
    """Questions with windows of logits, and the answers that the example chooses."""
    letters = "abc \u00e9\u4e00\U0001f600"
    rows = []
    for index in range(42):
        context = "".join(rng.choice(letters) for _ in range(rng.randrange(1, 120)))
        windows = []
        for window in range(rng.randrange(1, 4)):
            tokens = rng.choice([1, 2, 5, 40])
            question = rng.randrange(0, min(tokens, 4) + 1)
            inside = sorted(rng.randrange(len(context) + 1) for _ in range(2 * tokens))
            offsets = [
                None if t < question else inside[2 * t : 2 * t + 2] for t in range(tokens)
            ]
            if index % 7 == 3:
                offsets = [None] * tokens  # no token in the context
            if index % 7 == 4:
                offsets = [o and [o[0], o[0]] for o in offsets]  # answers without text
            step = [2.0**-12, 1.0, 0.25][index % 3]  # coarse: many ties

            def logits() -> list[float]:
                return [round(rng.gauss(0, 2) / step) * step for _ in range(tokens)]

            windows.append({"start": logits(), "end": logits(), "offsets": offsets})
        n_best, longest = rng.choice([(20, 30), (20, 30), (1, 30), (3, 2), (20, 1)])
        example = {"id": "q", "context": context}

        class Examples(list):
            def __getitem__(self, key):
                return [e["id"] for e in self] if key == "id" else super().__getitem__(key)

        features = [{"example_id": "q", "offset_mapping": w["offsets"]} for w in windows]
        for f in features:
            f["offset_mapping"] = [o and tuple(o) for o in f["offset_mapping"]]

        # Windows differ in length here, which arrays of arrays allow.
        def stacked(side: str) -> list:
            return [np.array(w[side], np.float32) for w in windows]

        captured = {}
        original = qa.json.dumps

        def keep(value, **_):
            captured.setdefault("all", []).append(value)
            return "{}"

        qa.json.dumps = keep
        chosen = qa.postprocess_qa_predictions(
            Examples([example]),
            features,
            (stacked("start"), stacked("end")),
            n_best_size=n_best,
            max_answer_length=longest,
            output_dir=OUTPUT,
        )
        qa.json.dumps = original
        n_best_list = captured["all"][1]["q"]
        rows.append(
            {
                "context": context,
                "windows": windows,
                "n_best": n_best,
                "longest": longest,
                "chosen": chosen["q"],
                "answers": [
                    [p["text"], float(np.float32(p["start_logit"]) + np.float32(p["end_logit"]))]
                    for p in n_best_list
                ],
            }
        )
    return rows


def whole_set(score, path: str) -> dict:
    """The development set, answered by rules: right, cut short, another's answer, or not at all."""
    dataset = json.load(open(path))["data"]
    questions = [qa for a in dataset for p in a["paragraphs"] for qa in p["qas"]]
    predictions = {}
    for i, qa in enumerate(questions):
        gold = qa["answers"][-1]["text"]
        if i % 5 == 0:
            predictions[qa["id"]] = gold.upper()
        elif i % 5 == 1:
            predictions[qa["id"]] = "The " + gold.split(" ")[0] + "!"
        elif i % 5 == 2:
            predictions[qa["id"]] = questions[(i + 1) % len(questions)]["answers"][0]["text"]
        elif i % 5 == 3:
            predictions[qa["id"]] = qa["question"]
    return score.compute_score(dataset, predictions)


if __name__ == "__main__":
    import functools
    import io
    import tempfile

    np.argsort = functools.partial(np.argsort, kind="stable")
    score = load(sys.argv[1], "score")
    qa = load(sys.argv[2], "qa")
    OUTPUT = tempfile.mkdtemp()
    stderr, sys.stderr = sys.stderr, io.StringIO()
    reference = {
        "classification": classification(random.Random(1)),
        "correlation": correlation(random.Random(2)),
        "squad": squad(score),
        "characters": {
            "unicode": unicodedata.unidata_version,
            "blocks": characters(score),
        },
        "spans": spans(qa, random.Random(3)),
        "squad_dev": whole_set(score, sys.argv[3]) if len(sys.argv) > 3 else None,
    }
    sys.stderr = stderr
    text = json.dumps(reference)
    # One case a line.
    print(text.replace('}, {"', '},\n{"').replace("]}, ", "]},\n"))
