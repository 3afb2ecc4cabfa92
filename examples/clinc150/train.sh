#!/bin/sh
# Trains a model that tells what a user wants, as one of 150 intents or 10 domains:
#   sh examples/clinc150/train.sh DATA ENCODER OUT [BITS]
# DATA: the folder made by prepare.py.  ENCODER: a BERT, such as the one ../minilm.py fetches.
# BITS: such as 1-1-2, of one student that gets all steps, in OUT/student-BITS; default is 1-1-1 after
# 1-1-2, in OUT/student.
# A run that was interrupted is continued by the same command.
set -eu
[ $# -eq 3 ] || [ $# -eq 4 ] || { echo "usage: $0 DATA ENCODER OUT [BITS]" >&2; exit 2; }
data=$1 encoder=$2 out=$3
student=$out/student${4:+-$4} other=${4:+--bits $4 --shares 1}
mkdir -p "$out"

if [ ! -e "$out/teacher/report.json" ]; then
  bitinfer finetune "$encoder" --train "$data/train.tsv" --dev "$data/dev.tsv" \
    --output "$out/teacher" --reinitialize-pooler --epochs 2 --learning-rate 2e-4 \
    --max-length 64 --licence Apache-2.0 --resume
fi
if [ ! -e "$student/report.json" ]; then
  bitinfer distill "$out/teacher" --train "$data/train.tsv" --dev "$data/dev.tsv" \
    --output "$student" --bits 1-1-2,1-1-1 --shares 1,2 --steps 1500 \
    --learning-rate 1e-3 --max-length 64 --evaluate-every 250 --licence Apache-2.0 --resume $other
fi

# The test set has no say in anything above.
bitinfer verify "$student/packed.safetensors" --data "$data/test.tsv"
