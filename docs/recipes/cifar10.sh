#!/usr/bin/env bash
# From images to DiT-Nano bundles, by edgedit commands alone: docs/recipes/cifar10.md says what each stage does and costs.
# Stopped in any way, the same command goes on where it stopped.
set -euo pipefail

usage() {
    cat << 'END'
usage: cifar10.sh [options]

  --scale cpu|gpu          budgets and sizes (default cpu); each of them has an option of its own below
  --smoke                  the same path in minutes on a CPU: it shows that everything runs, not pictures
  --out DIR                folder for everything (runs/cifar10)
  --data DIR               cifar-10-batches-py, its archive, or a folder of images by class (cifar10: downloaded once)
  --stages LIST            of teacher,quality,pairs,students,onepass,evaluation,export,parity,profile,report,card (all)
  --dry-run                print the commands and run none

  --teacher FOLDER         an existing teacher, trained or converted, instead of training one
  --teacher-preset NAME    unet-tiny, unet-small, unet-base, unet-large      (cpu: unet-small; gpu: unet-large)
  --teacher-set KEY=VALUE  any of its settings; repeatable                   (gpu: unet.patch=2)
  --minutes-teacher M      training time of the teacher                      (cpu: 480; gpu: 12)
  --guidance G             of the pairs; other than 1 it doubles the work     (cpu: 2, of a given teacher 1; gpu: 1)
  --sampler-steps N        Heun steps of a pair                               (cpu: 10; gpu: 18)
  --pairs N                teacher pairs to learn from                       (cpu: 20000; gpu: 200000)
  --held-out N             teacher pairs to be judged by                     (cpu: 2000; gpu: 10000)
  --students LIST          of 0.42m,2.2m,5m                                  (cpu: 0.42m; gpu: all)
  --minutes-student M      training time of each student                     (cpu: 60; gpu: 3)
  --minutes-one-pass M     then, guidance 1.5 of each taught in one pass      (cpu: 15; gpu: 1; 0: not done)
  --student-set KEY=VALUE  any setting of `edgedit train`; repeatable
  --batch N                images a step of a student                        (cpu: 32; gpu: 512)
  --loss NAME              l1, l2, lpips, l1+lpips                           (l1+lpips with --lpips-weights, else l1)
  --lpips-net NAME         squeeze, alex, vgg                                (vgg)
  --precision NAME         fp32, tf32, bf16                                  (bf16)
  --compile true|false     torch.compile                                     (true)

  --extractor-weights FILE Inception weights                                 (the published file, downloaded once)
  --classifier FILE        weights of a CIFAR ResNet: adds class accuracy
  --lpips-weights FILE     ImageNet weights of the LPIPS trunk, torchvision's state dict
  --metrics LIST           of evaluations                                    (fid,pr,spread,nearest,accuracy)
  --reference NAME         what images should be like                        (the training split of --data)
  --real NAME              real images nobody trained on                     (its test split)
  --reference-count N      images of the reference                           (cpu: 5000; gpu: 50000)
  --profile LIST           bundles profiled here, of fp32,fp16,int8          (fp32)
  --profile-images N       images of a profile                               (cpu, gpu: 5000; the paper: 50000)

EDGEDIT is the command to run (edgedit), as in EDGEDIT="python -m edgedit", or EDGEDIT="nice -n 19 edgedit".
END
}

fail() {
    printf 'cifar10.sh: %s\n' "$1" >&2
    exit 2
}

# --- options ------------------------------------------------------------------------------------------------------------------

all_stages=teacher,quality,pairs,students,onepass,evaluation,export,parity,profile,report,card
scale=cpu smoke='' out=runs/cifar10 data=cifar10 stages=$all_stages dry=''
given_teacher='' guidance='' sampler_steps='' loss='' lpips_net=vgg precision=bf16 compile=''
extractor='' classifier='' lpips='' metrics='' reference='' real='' profiled=fp32
preset='' minutes_teacher='' pairs='' held_out='' students='' minutes_student='' minutes_one_pass='' batch='' reference_count='' profile_images=''
teacher_sets=() student_sets=()

while (($#)); do
    case $1 in
        --smoke) smoke=1 && shift && continue ;;
        --dry-run) dry=1 && shift && continue ;;
        -h | --help) usage && exit 0 ;;
    esac
    (($# > 1)) || fail "$1 needs a value, or is no option (--help lists them)"
    case $1 in
        --scale) scale=$2 ;;
        --out) out=$2 ;;
        --data) data=$2 ;;
        --stages) stages=$2 ;;
        --teacher) given_teacher=$2 ;;
        --teacher-preset) preset=$2 ;;
        --teacher-set) teacher_sets+=(--set "$2") ;;
        --minutes-teacher) minutes_teacher=$2 ;;
        --guidance) guidance=$2 ;;
        --sampler-steps) sampler_steps=$2 ;;
        --pairs) pairs=$2 ;;
        --held-out) held_out=$2 ;;
        --students) students=$2 ;;
        --minutes-student) minutes_student=$2 ;;
        --minutes-one-pass) minutes_one_pass=$2 ;;
        --student-set) student_sets+=(--set "$2") ;;
        --batch) batch=$2 ;;
        --loss) loss=$2 ;;
        --lpips-net) lpips_net=$2 ;;
        --precision) precision=$2 ;;
        --compile) compile=$2 ;;
        --extractor-weights) extractor=$2 ;;
        --classifier) classifier=$2 ;;
        --lpips-weights) lpips=$2 ;;
        --metrics) metrics=$2 ;;
        --reference) reference=$2 ;;
        --real) real=$2 ;;
        --reference-count) reference_count=$2 ;;
        --profile) profiled=$2 ;;
        --profile-images) profile_images=$2 ;;
        *) fail "there is no option $1 (--help lists them)" ;;
    esac
    shift 2
done

# --- budgets by scale; what was given wins ------------------------------------------------------------------------------------

usual() { # NAME VALUE: give NAME its value unless it has one
    [[ -n ${!1} ]] || printf -v "$1" '%s' "$2"
}

usual compile "$([[ -n $smoke ]] && echo false || echo true)"
teacher_more=() student_more=() pairs_more=() export_more=()
if [[ -n $smoke ]]; then
    usual preset unet-tiny
    usual minutes_teacher 0.1 && usual pairs 48 && usual held_out 40 && usual minutes_student 0.1 && usual minutes_one_pass 0.1
    usual batch 16
    usual reference_count 100 && usual profile_images 256
    teacher_more=(--batch 16 --set sample_every=0 --set optimizer.warmup_steps=5)
    student_more=(--set sample_every=0 --set optimizer.warmup_steps=5)
    pairs_more=(--set shard_size=24)
    export_more=(--set int8.images=48 --set int8.gate.images=32)
fi
case $scale in
    cpu)
        usual preset unet-small
        usual minutes_teacher 480 && usual pairs 20000 && usual held_out 2000 && usual students 0.42m && usual minutes_student 60
        usual minutes_one_pass 15
        usual batch 32 && usual reference_count 5000 && usual guidance "$([[ -n $given_teacher ]] && echo 1 || echo 2)" && usual sampler_steps 10
        [[ -n $smoke ]] || pairs_more=(--set compile="$compile" --set batch=128)
        ;;
    gpu)
        if [[ -z $preset ]]; then
            preset=unet-large
            [[ ${teacher_sets[*]-} == *unet.patch=* ]] || teacher_sets=(--set unet.patch=2 "${teacher_sets[@]}")
        fi
        usual minutes_teacher 12 && usual pairs 200000 && usual held_out 10000 && usual students 0.42m,2.2m,5m && usual minutes_student 3
        usual minutes_one_pass 1
        usual batch 512 && usual reference_count 50000 && usual guidance 1 && usual sampler_steps 18
        [[ -n $smoke ]] || pairs_more=(--set batch=2048 --set compile="$compile")
        ;;
    *) fail "--scale is cpu or gpu, not '$scale'" ;;
esac
usual profile_images 5000
set=cifar10 # whose splits judge: of another data set its own
[[ $data == cifar10 || $data == *.gz || -e $data/data_batch_1 || -e $data/cifar-10-batches-py ]] || set=data
usual reference "$set-train" && usual real "$set-test"
usual loss "$([[ -n $lpips ]] && echo l1+lpips || echo l1)"
usual metrics "fid,pr,spread$([[ -n $smoke ]] || echo ,nearest)$([[ -n $classifier ]] && echo ,accuracy || true)"

teacher=${given_teacher:-$out/teacher}
IFS=, read -ra sizes <<< "$students"
IFS=, read -ra forms <<< "$profiled"
read -ra tool <<< "${EDGEDIT:-edgedit}"
for stage in ${stages//,/ }; do
    [[ ,$all_stages, == *",$stage,"* ]] || fail "there is no stage '$stage' (known: $all_stages)"
done

weights_of() { # evaluations' networks
    [[ -z $extractor ]] || printf '%s\n' --extractor-weights "$extractor"
    [[ -z $classifier ]] || printf '%s\n' --classifier "$classifier"
}
mapfile -t judges < <(weights_of)
lpips_file=()
[[ -z $lpips ]] || lpips_file=(--lpips-weights "$lpips")

# --- running ------------------------------------------------------------------------------------------------------------------

child='' stage='' begun='' stopped='' signalled=''

show() { # a command as it is typed
    local word
    printf 'edgedit'
    for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_./,:=+-]+$ ]]; then printf ' %s' "$word"; else printf ' %q' "$word"; fi
    done
    printf '\n'
}

run() { # an edgedit command; the first that fails ends the script
    [[ -z $stopped ]] || exit 130
    show "$@"
    [[ -z $dry ]] || return 0
    "${tool[@]}" "$@" >&2 &
    child=$!
    [[ -z $stopped ]] || kill -TERM "$child" 2> /dev/null || true # it came just before
    local status=0 again
    wait "$child" || status=$?
    while [[ -n $signalled ]]; do # a signal ended the wait, not the command: it saves, however short that is
        signalled='' again=0
        wait "$child" || again=$?
        ((again == 127)) || status=$again # 127: it had been waited for before the signal
    done
    child=''
    if ((status)); then
        note "$status"
        printf "stopped in stage '%s'; the same command goes on from there\n" "$stage" >&2
        exit "$status"
    fi
}

note() { # a line of stages.jsonl: what the stage took, how it ended
    [[ -z $dry ]] || return 0
    local seconds
    seconds=$(awk -v a="$begun" -v b="${EPOCHREALTIME/,/.}" 'BEGIN { printf "%.2f", b - a }')
    printf '{"utc": "%s", "scale": "%s", "smoke": %s, "stage": "%s", "seconds": %s, "status": %s}\n' "$(date -u +%FT%TZ)" \
        "$scale" "$([[ -n $smoke ]] && echo true || echo false)" "$stage" "$seconds" "$1" >> "$out/stages.jsonl"
}

stop() {
    stopped=1 signalled=1
    [[ -z $child ]] || kill -TERM "$child" 2> /dev/null || true
}
trap stop TERM INT

# --- stages -------------------------------------------------------------------------------------------------------------------

judge() { # SOURCE FOLDER METRICS [options]
    run evaluate "$1" --out "$2" --metrics "$3" --reference "$reference" --reference-count "$reference_count" --data "$data" \
        "${judges[@]}" "${@:4}"
}

make_pairs() { # FOLDER COUNT SEED
    run pairs --teacher "$teacher" --count "$2" --seed "$3" --guidance "$guidance" --precision "$precision" \
        --set steps="$sampler_steps" "${pairs_more[@]}" --out "$1"
}

stage_teacher() {
    [[ -z $given_teacher ]] || return 0
    run teacher train --preset "$preset" --data "$data" --minutes "$minutes_teacher" --set precision="$precision" \
        --set compile="$compile" --set optimizer.schedule=cosine "${teacher_more[@]}" "${teacher_sets[@]}" --out "$out/teacher"
}

stage_quality() { # of the teacher, and of real images by the same ruler
    run teacher sample "$teacher" --count "$([[ -n $smoke ]] && echo 10 || echo 100)" --guidance "$guidance" --steps "$sampler_steps" \
        --out "$out/teacher.png"
    make_pairs "$out/held-out" "$held_out" 1
    judge "$out/held-out" "$out/evaluation-teacher" "$metrics"
    judge "$real" "$out/evaluation-real" "$metrics" --count "$held_out"
}

stage_pairs() {
    make_pairs "$out/pairs" "$pairs" 0
}

teach() { # SIZE FOLDER MINUTES RATE WARM-UP [options]
    local loss_sets=()
    if [[ $loss == *lpips* ]]; then
        loss_sets=(--set loss.lpips.net="$lpips_net" --set loss.lpips.resolution=64 "${lpips_file[@]}")
    fi
    run train --preset "dit-nano-$1" --pairs "$out/pairs" --minutes "$3" --batch "$batch" --loss "$loss" "${loss_sets[@]}" \
        --set precision="$precision" --set compile="$compile" --set optimizer.name=muon --set optimizer.lr="$4" \
        --set optimizer.schedule=cosine --set optimizer.warmup_steps="$5" --set ema_decay=0.999 "${@:6}" \
        "${student_more[@]}" "${student_sets[@]}" --out "$2"
}

stage_students() {
    local flips=()
    # A teacher that learned from mirrored images too turns mirrored noise into the mirrored image.
    [[ -n $given_teacher || ${teacher_sets[*]-} == *flips=false* ]] || flips=(--set flips=true)
    for size in "${sizes[@]}"; do
        teach "$size" "$out/student-$size" "$minutes_student" 1e-2 100 "${flips[@]}"
    done
}

stage_onepass() { # what a student gives in two passes, with guidance, taught to it in one
    [[ $minutes_one_pass != 0 ]] || return 0
    for size in "${sizes[@]}"; do
        teach "$size" "$out/one-pass-$size" "$minutes_one_pass" 5e-3 50 --setup guided --set setup.student="$out/student-$size" \
            --init "$out/student-$size"
    done
}

best() { # SIZE: the student that is packed
    if [[ $minutes_one_pass == 0 ]]; then printf '%s' "$out/student-$1"; else printf '%s' "$out/one-pass-$1"; fi
}

stage_evaluation() { # on noise and classes that no student has seen; how near it is to the teacher's images of them
    for size in "${sizes[@]}"; do
        judge "$(best "$size")" "$out/evaluation-$size" "$metrics" --pairs "$out/held-out"
        [[ $minutes_one_pass == 0 ]] || judge "$out/student-$size" "$out/evaluation-student-$size" "$metrics" --pairs "$out/held-out"
        run evaluate "$out/student-$size" --out "$out/distance-$size" --metrics teacher --pairs "$out/held-out" --guidance 1 \
            "${lpips_file[@]}"
    done
}

stage_export() {
    for size in "${sizes[@]}"; do
        local student bundle=$out/bundle-$size
        student=$(best "$size")
        run export "$student" --precision fp32 --attention ort --batch 128 --out "$bundle-fp32"
        run export "$student" --precision fp16 --attention pattern --batch 128 --out "$bundle-fp16"
        run export "$student" --precision int8 --calibrate "$out/pairs" --attention pattern --batch 128 "${lpips_file[@]}" \
            "${export_more[@]}" --out "$bundle-int8"
        run generate "$bundle-fp32" --count 100 --all-classes --out "$out/samples-$size.png"
    done
}

stage_parity() {
    for size in "${sizes[@]}"; do
        local bundle=$out/bundle-$size
        run compare "$(best "$size")" "$bundle-fp32" "$bundle-fp16" "$bundle-int8" \
            --images "$([[ -n $smoke ]] && echo 32 || echo 128)" --out "$out/parity-$size"
    done
}

stage_profile() {
    for size in "${sizes[@]}"; do
        for form in "${forms[@]}"; do
            run profile "$out/bundle-$size-$form" --images "$profile_images" --out "$out/record-$size-$form" --replace
        done
    done
}

stage_report() {
    local sources=()
    for size in "${sizes[@]}"; do
        for form in "${forms[@]}"; do
            sources+=("$out/record-$size-$form")
        done
        sources+=("$out/parity-$size" "$(best "$size")")
    done
    run report "${sources[@]}" --title "DiT-Nano on CIFAR-10" --out "$out/report.html"
}

stage_card() { # of each student, with all that was measured of it
    for size in "${sizes[@]}"; do
        local sources=("$out/student-$size" "$out/bundle-$size"-{fp32,fp16,int8} "$out/parity-$size" "$out/evaluation-$size" "$out/distance-$size")
        [[ $minutes_one_pass == 0 ]] || sources+=("$out/one-pass-$size" "$out/evaluation-student-$size")
        for form in "${forms[@]}"; do
            sources+=("$out/record-$size-$form")
        done
        run card "${sources[@]}" "$teacher" "$out/evaluation-teacher" "$out/evaluation-real" --samples "$out/samples-$size.png" \
            --out "$out/card-$size.md"
    done
}

[[ -n $dry ]] || mkdir -p "$out"
for stage in ${all_stages//,/ }; do
    if [[ ,$stages, == *",$stage,"* ]]; then
        begun=${EPOCHREALTIME/,/.}
        printf '# %s\n' "$stage"
        "stage_$stage"
        note 0
    fi
done
