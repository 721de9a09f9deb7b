"""The search behind the defaults of lambda and r_hat: rm-lora (with its special cases) at R = 32 on
training rows held out from training, three seeds each; writes search.csv beside this file.

    cargo build --release && python3 paper/search/search.py [RANKWISE]
"""

import csv
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
PROGRAM = sys.argv[1] if len(sys.argv) > 1 else HERE / "../../target/release/rankwise"
LAMBDAS = [0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3]
DIRECTIONS = [8, 16, 24, 32]
COLUMNS = ["train_loss", "test_loss", "train_accuracy", "test_accuracy"]


def main():
    rows = []
    for lam in LAMBDAS:
        for directions in DIRECTIONS:
            with tempfile.TemporaryDirectory() as folder:
                command = [PROGRAM, "train", "--method", "rm-lora", "--rank", "32", "--seeds", "0,1,2",
                           "--set", f"method.lambda={lam:.6f}", "--set", f"method.directions={directions}",
                           "--set", "task.evaluate_on=validation", "--json", "--out", folder]
                runs = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            last = [run["summary"]["last"] for run in runs]
            row = {"lambda": lam, "directions": directions, "seeds": len(runs)}
            for column in COLUMNS:
                name = column.replace("test", "validation")
                row[name] = round(statistics.mean(record[column] for record in last), 4)
            row["effective_rank"] = round(statistics.mean(r["measures"]["effective_rank"] for r in last), 2)
            rows.append(row)
            print(row, flush=True)
    with open(HERE / "search.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
