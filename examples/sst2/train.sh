#!/bin/sh
# Trains a 1-bit sentiment model for English:
#   sh examples/sst2/train.sh DATA ENCODER OUT
# DATA: the folder made by prepare.py.  ENCODER: a BERT, such as the one ../minilm.py fetches.
# A run that was interrupted is continued by the same command.
set -eu
[ $# -eq 3 ] || { echo "usage: $0 DATA ENCODER OUT" >&2; exit 2; }
data=$1 encoder=$2 out=$3
mkdir -p "$out"

if [ ! -e "$out/teacher/report.json" ]; then
  bitinfer finetune "$encoder" --train "$data/train.tsv" --dev "$data/dev.tsv" \
    --output "$out/teacher" --labels negative,positive --reinitialize-pooler \
    --epochs 2 --learning-rate 8e-5 --evaluate-every 500 --resume
fi
if [ ! -e "$out/student/report.json" ]; then
  bitinfer distill "$out/teacher" --train "$data/train.tsv" --dev "$data/dev.tsv" \
    --output "$out/student" --labels negative,positive --max-length 64 \
    --bits 1-1-2,1-1-1 --shares 1,2 --steps 10800 --learning-rate 1e-3 --evaluate-every 450 \
    --licence Apache-2.0 --resume
fi

# The test set has no say in anything above.
bitinfer verify "$out/student/packed.safetensors" --data "$data/test.tsv"
