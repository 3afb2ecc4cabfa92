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
    --epochs 2 --learning-rate 5e-5 --evaluate-every 450 --max-length 64 --resume
fi
# In one step: no student of more bits takes its share of the budget.  A step is as many texts as 480
# tokens hold; 256 is no bound to that.
if [ ! -e "$out/student/report.json" ]; then
  bitinfer distill "$out/teacher" --train "$data/train.tsv" --dev "$data/dev.tsv" \
    --unlabelled "$data/unlabelled.tsv" --token-noise 0.15 \
    --output "$out/student" --labels negative,positive --max-length 64 \
    --bits 1-1-1 --steps 18000 --batch-size 256 --batch-tokens 480 --evaluate-every 3000 \
    --learning-rate 1e-3 \
    --licence Apache-2.0 --resume
fi

# The test set has no say in anything above.
bitinfer verify "$out/student/packed.safetensors" --data "$data/test.tsv"
