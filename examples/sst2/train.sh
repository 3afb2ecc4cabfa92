#!/bin/sh
# Trains a 1-bit sentiment model for English:
#   sh examples/sst2/train.sh DATA ENCODER OUT
# DATA: the folder made by prepare.py.  ENCODER: a BERT, such as the one ../minilm.py fetches.
# A run that was interrupted is continued by the same command.
set -eu
[ $# -eq 3 ] || { echo "usage: $0 DATA ENCODER OUT" >&2; exit 2; }
data=$1 encoder=$2 out=$3
mkdir -p "$out"

# Minutes on 2 CPUs.
teacher_minutes=20
student_minutes=240

if [ ! -e "$out/teacher/report.json" ]; then
  bitinfer finetune "$encoder" --train "$data/train.tsv" --dev "$data/dev.tsv" \
    --output "$out/teacher" --labels negative,positive --minutes "$teacher_minutes" \
    --resume
fi
if [ ! -e "$out/student/report.json" ]; then
  bitinfer distill "$out/teacher" --train "$data/train.tsv" --dev "$data/dev.tsv" \
    --output "$out/student" --labels negative,positive --minutes "$student_minutes" \
    --licence Apache-2.0 --resume
fi

# The test set has no say in anything above.
bitinfer verify "$out/student/model.safetensors" --data "$data/test.tsv"
