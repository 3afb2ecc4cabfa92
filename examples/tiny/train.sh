#!/bin/sh
# Goes the whole way from a table to labels in a minute, with a toy task and a toy BERT:
#   sh examples/tiny/train.sh OUT
set -eu
[ $# -eq 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }
out=$1

"${PYTHON:-python3}" "$(dirname "$0")/make.py" "$out"

bitinfer finetune "$out/encoder" --train "$out/train.tsv" --dev "$out/dev.tsv" \
  --output "$out/teacher" --steps 200 --learning-rate 1e-3
bitinfer distill "$out/teacher" --train "$out/train.tsv" --dev "$out/dev.tsv" \
  --output "$out/student" --steps 900 --learning-rate 4e-3

bitinfer verify "$out/student/packed.safetensors" --data "$out/test.tsv" --at-least 0.8
bitinfer predict "$out/student" "we had soup and bread before the song"
