#!/usr/bin/env bash
# The headline rows from scratch: train the two small generators that are shipped, then victims on
# what they and `pattern` protect, next to signs drawn at random. CPU or GPU; about 3 hours of one CPU
# core; a second call beside the first shares the victims.
#
#   bash scripts/reproduce_lab.sh DIR
#
# DIR holds the training pairs (class_agnostic_{train,test}.txt with CCP/ and DAVIS/, coco/) and
# Kvasir-SEG/ as docs/DATASETS.md describes them. Results: work_dirs/reproduce_lab/. Every step goes
# on where it stopped; run it again after an interruption.
#
# UNSEG_LAB_OVERRIDES and UNSEG_LAB_EVALUATE_OVERRIDES are "key=value ..." for the trainings and for
# the evaluation, with which a test makes the run tiny.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/_venv.sh
[ $# -eq 1 ] || fail "usage: bash scripts/reproduce_lab.sh DIR (the folder of the data sets)"
data="$1"
[ -d "$data/Kvasir-SEG" ] || fail "$data: holds no folder Kvasir-SEG; give the folder of the data sets"
prepare_venv "[eval]"
out=work_dirs/reproduce_lab
read -r -a train <<<"${UNSEG_LAB_OVERRIDES:-}"
read -r -a evaluate <<<"${UNSEG_LAB_EVALUATE_OVERRIDES:-}"

for name in lab_default lab_robust; do
    .venv/bin/unseg train "configs/train/$name.yaml" \
        data.root="$data" output.dir="$out" "${train[@]}"
done
.venv/bin/unseg evaluate configs/evaluate/headline.yaml \
    run_dir="$out/headline" \
    data.kvasir.train.root="$data/Kvasir-SEG" data.kvasir.test.root="$data/Kvasir-SEG" \
    data.kvasir_whole.{train,test}.root="$data/Kvasir-SEG" \
    methods.unseg.generator="$out/lab_default/generator_lab_default.safetensors" \
    methods.robust.generator="$out/lab_robust/generator_lab_robust.safetensors" \
    "${evaluate[@]}"
