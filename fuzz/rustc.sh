#!/bin/sh
# rustc for the fuzz targets: what reads hostile bytes is instrumented for libFuzzer, by the flags
# that the stable compiler takes; the rest is built as always.
crate=
for argument in "$@"; do
  if [ "$previous" = --crate-name ]; then crate=$argument; fi
  previous=$argument
done
case $crate in
rankwise_analysis | rankwise_data | rankwise_fuzz | serde_json | safetensors | jpeg | sentencepiece)
  set -- "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1
  ;;
esac
exec "$@"
