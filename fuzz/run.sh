#!/bin/bash
# Builds the fuzz targets and runs each, one after the other.
#
#   fuzz/run.sh 60s              every target for 60 seconds
#   fuzz/run.sh 20000            every target for 20,000 mutations, and the whole corpus before
#   fuzz/run.sh 60s pickle       only this one
#
# What a run finds new grows in fuzz/target/corpus; a failing input lies in fuzz/artifacts and makes
# the script fail. SEED=n for other mutations than the last run's.
set -euo pipefail
cd "$(dirname "$0")"
export CARGO_INCREMENTAL=0 RUSTC_WRAPPER=$PWD/rustc.sh
# The stable compiler takes the coverage flags; rayon's threads would only wait for each other.
export RAYON_NUM_THREADS=1 RUST_BACKTRACE=1
limit=${1:?"usage: fuzz/run.sh SECONDSs|RUNS [TARGET…]"}
shift
case $limit in
*s) how=-max_total_time=${limit%s} ;;
*) how=-runs=$limit ;;
esac
cargo build --release --locked --quiet --target-dir target
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
  targets=(safetensors torch_zip torch_sequence pickle index config audit adapter rule metrics_csv metrics_json jpeg sentencepiece)
fi
mkdir -p artifacts
sum=0
for target in "${targets[@]}"; do
  mkdir -p "target/corpus/$target"
  log=target/$target.log
  if [[ $how == -runs=* ]]; then
    # libFuzzer counts the corpus as runs too.
    files=$(find "corpus/$target" "target/corpus/$target" -type f | wc -l)
    how=-runs=$((limit + files))
  fi
  if ! "target/release/$target" "target/corpus/$target" "corpus/$target" "$how" \
    -seed="${SEED:-1}" -max_len=16384 -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 \
    -artifact_prefix=artifacts/"$target"- -print_final_stats=1 >"$log" 2>&1; then
    tail -n 60 "$log"
    echo "fuzz: $target failed; the input is in fuzz/artifacts" >&2
    exit 1
  fi
  count=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
  covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
  printf '%-16s %9d executions, %7d a second, %6d edges\n' "$target" "$count" "$rate" "$covered"
  sum=$((sum + count))
done
printf '%-16s %9d executions\n' total "$sum"
