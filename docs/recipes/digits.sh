#!/usr/bin/env bash
# How engines/dit-nano-digits was made: 16×16 digits from the closed-form teacher of scikit-learn's data set. Needs nothing but edgedit[host].
# Stopped in any way, the same command goes on. usage: digits.sh [RUNS] [MODEL] [MINUTES]
set -euo pipefail
runs=${1:-runs/digits} model=${2:-runs/dit-nano-digits} minutes=${3:-16}
read -ra tool <<< "${EDGEDIT:-edgedit}"

run() {
    printf '\n$ edgedit %s\n' "$*"
    "${tool[@]}" "$@"
}

run pairs --teacher ideal --data digits --image 16 --count 32000 --seed 0 --out "$runs/pairs"
run pairs --teacher ideal --data digits --image 16 --count 2000 --seed 1 --out "$runs/held-out"
run train --preset digits --pairs "$runs/pairs" --minutes "$minutes" --steps 20000 --set optimizer.warmup_steps=100 \
    --set precision=bf16 --set compile=true --out "$runs/student"

mkdir -p "$model/student" # what is sealed, without checkpoints and logs
cp "$runs"/student/{manifest.json,settings.json,student.safetensors} "$model/student/"
run export "$model/student" --precision fp32 --attention ort --batch 128 --out "$model/bundle-fp32"
run export "$model/student" --precision fp16 --attention pattern --batch 128 --out "$model/bundle-fp16"
run export "$model/student" --precision int8 --calibrate "$runs/pairs" --attention pattern --batch 128 --out "$model/bundle-int8"
run compare "$model/student" "$model"/bundle-{fp32,fp16,int8} --images 128 --out "$model/parity"
run generate "$model/bundle-fp32" --count 100 --all-classes --out "$model/samples.png"
run evaluate "$model/bundle-fp32" --metrics spread,nearest --reference digits-train --count 2000 --seed 1 --out "$model/evaluation"
run evaluate "$model/student" --metrics teacher --pairs "$runs/held-out" --guidance 1.0 --out "$model/distance"
run profile "$model/bundle-fp32" --images 50000 --out "$model/record" --replace
run card "$model"/{student,bundle-fp32,bundle-fp16,bundle-int8,parity,evaluation,distance,record} --samples "$model/samples.png" \
    --licence Apache-2.0 --data-licence "UCI, Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998); the copy that comes with scikit-learn" --out "$model/README.md"
