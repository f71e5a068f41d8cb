#!/usr/bin/env bash
# The paper's measurement in one command, on the board: build the engine, 50,000 images at batch 128 in FP16 with power, a report.
#
#   jetson/bench.sh BUNDLE [--mode NAME] [--images 50000] [--batch 128] [--out DIR] [--any-precision]
#
#   --mode            power mode by name (default: the live one); clocks are pinned, both are put back
#   --out             folder (default runs/bench-DATE-MODE; an unfinished one of the same bundle and mode is gone on with)
#   --any-precision   also bundles that are not FP16
#
# Cut off, run it again: what is done is found by its hash. EDGEDIT names the program (default: that of ~/edgedit/venv, or on PATH).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=${EDGEDIT_ROOT:-}
bundle='' mode='' images=50000 batch=128 out='' any=no

die() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '  fix: %s\n' "$2" >&2
    exit "${3:-1}"
}

say() { printf '== %s\n' "$*"; }

find_edgedit() {
    if [ -n "${EDGEDIT:-}" ]; then printf '%s\n' "$EDGEDIT"
    elif [ -x "$HOME/edgedit/venv/bin/edgedit" ]; then printf '%s\n' "$HOME/edgedit/venv/bin/edgedit"
    else command -v edgedit || die "edgedit is not installed" "$here/setup.sh" 4; fi
}

# One setting of the bundle's manifest.
setting() {
    python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["settings"].get(sys.argv[2]))' "$bundle/manifest.json" "$1"
}

arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
            --mode | --images | --batch | --out)
                [ $# -ge 2 ] || die "$1 wants a value" "$0 --help" 2
                case $1 in --mode) mode=$2 ;; --images) images=$2 ;; --batch) batch=$2 ;; --out) out=$2 ;; esac
                shift ;;
            --any-precision) any=yes ;;
            -h | --help) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
            -*) die "unknown option $1" "$0 --help" 2 ;;
            *) [ -z "$bundle" ] || die "one bundle only: $bundle or $1" "$0 --help" 2; bundle=$1 ;;
        esac
        shift
    done
    [ -n "$bundle" ] || die "no bundle" "$0 BUNDLE" 2
    [ -f "$bundle/manifest.json" ] || die "$bundle is no bundle" "edgedit export STUDENT --out $bundle, on the host" 3
    local precision
    precision=$(setting precision)
    [ "$precision" = fp16 ] || [ $any = yes ] ||
        die "$bundle is $precision; the measurement is one of FP16" "edgedit export … --precision fp16; or --any-precision" 2
}

# The folder of this measurement: an unfinished one of the same bundle, mode and size, else a new one of today.
folder() {
    local request=$1 name there
    name=runs/bench-$(date +%Y-%m-%d)-$mode
    for there in runs/bench-*-"$mode"*/; do
        if [ -f "$there/request" ] && [ ! -f "$there/done" ] && [ "$(cat "$there/request")" = "$request" ]; then
            printf '%s\n' "${there%/}"
            return
        fi
    done
    there=$name
    for ((n = 2; ; n++)); do
        [ -e "$there" ] || break
        there=$name-$n
    done
    printf '%s\n' "$there"
}

# Memory that the page cache holds counts as taken when TensorRT looks for room.
drop_caches() {
    sync
    if [ "$(id -u)" -ne 0 ]; then
        say "page cache kept: only root can drop it"
    elif [ -w "$ROOT/proc/sys/vm/drop_caches" ]; then
        say "+ echo 3 > /proc/sys/vm/drop_caches"
        echo 3 >"$ROOT/proc/sys/vm/drop_caches"
    fi
}

main() {
    arguments "$@"
    local edgedit request modes
    edgedit=$(find_edgedit)
    if [ -z "$mode" ]; then
        mode=$("$here/power-mode.sh" | sed -n 's/^\* //p')
        [ -n "$mode" ] || die "the live power mode cannot be told" "--mode NAME; $here/power-mode.sh lists them" 4
    else
        modes=$("$here/power-mode.sh" | cut -c 3-)
        grep -qixF -- "$mode" <<<"$modes" || die "this board has no power mode '$mode'" "one of: $(paste -sd ' ' <<<"$modes")" 2
    fi
    request="$(sha256sum "$bundle/manifest.json" | cut -c1-16) mode=$mode images=$images batch=$batch"
    [ -n "$out" ] || out=$(folder "$request")
    if [ -f "$out/request" ] && [ "$(cat "$out/request")" != "$request" ]; then
        die "$out holds another measurement: $(cat "$out/request")" "another --out" 6
    fi
    mkdir -p "$out"
    printf '%s\n' "$request" >"$out/request"
    say "results in $out"

    say doctor
    "$edgedit" doctor 2>&1 | tee "$out/doctor.txt" || die "the board is not ready; see above" "the fixes above, then this command again" 4
    drop_caches
    say build
    "$edgedit" build "$bundle" --batch "$batch" 2>&1 | tee "$out/build.txt"
    say "profile: $images images at batch $batch in $mode"
    "$here/power-mode.sh" "$mode" -- \
        "$edgedit" profile "$bundle" --runtime trt --images "$images" --batch "$batch" --power auto --out "$out/record"
    say report
    "$edgedit" report "$out/record" --out "$out/report.html"
    touch "$out/done"
    say "done: $out/report.html"
}

main "$@"
