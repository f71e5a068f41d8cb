#!/usr/bin/env bash
# The device side on 64-bit Arm, by emulation: an arm64 Debian made to look like a Jetson, in which the base wheel and ONNX
# Runtime's aarch64 wheel run `doctor`, `generate`, `profile`, `report`, `show` and the device tests. README.md tells the rest.
#
#   sudo tests/aarch64/run.sh [STAGE ...]       stages: rootfs bundles install board compare tests; all without one
#
# Finished stages are not done again; `rm -r --one-file-system .work/aarch64` starts anew.
set -euo pipefail

suite=${SUITE:-bookworm}                             # bookworm: Python 3.11; trixie: 3.13; Ubuntu's jammy: 3.10, noble: 3.12
mirror=${MIRROR:-http://deb.debian.org/debian}       # Ubuntu's arm64 packages: http://ports.ubuntu.com/ubuntu-ports
export RELEASE=${RELEASE:-jp6}                       # the fake board's JetPack: jp6 or jp7
seed=${SEED:-7}                                      # of the noise of all images
cpu=${CPU:-cortex-a76}                               # emulated core: Armv8.2 with FP16 and dot products, as the Orin's A78AE

repo=$(cd "$(dirname "$0")/../.." && pwd)
here=$repo/tests/aarch64
python=${PYTHON:-$repo/.venv/bin/python}             # with edgedit[dev] installed
base=$repo/.work/aarch64
place=$base/$suite
root=$place/root
entry=/proc/sys/fs/binfmt_misc/edgedit-aarch64

say() { printf '\n== %s\n' "$*" >&2; }
stop() { printf 'run.sh: %s\n' "$1" >&2; [ -z "${2:-}" ] || printf '  fix: %s\n' "$2" >&2; exit 1; }

needs() {
    [ "$(id -u)" = 0 ] || stop "needs root: it makes a root file system, mounts and calls chroot" "sudo $0"
    local tool
    for tool in debootstrap chroot unshare flock; do
        command -v "$tool" >/dev/null || stop "$tool is missing" "apt-get install debootstrap util-linux"
    done
    [ -x "$python" ] || stop "no Python at $python" "make .venv/.installed-dev, or PYTHON=… with edgedit[dev]"
    ort=${ORT:-$("$python" -c 'import onnxruntime; print(onnxruntime.__version__)')}
    out=$place/out-$ort
    mkdir -p "$place" "$out"
    exec 9>"$base/lock"
    flock -n 9 || stop "another run is using $base"
}

# The kernel hands arm64 programs to qemu only while an entry in binfmt_misc says so. F: qemu is opened now, outside the chroot.
emulate() {
    [ "$(uname -m)" = aarch64 ] && return
    local qemu file
    qemu=$(command -v qemu-aarch64-static) || stop "qemu-aarch64-static is missing" "apt-get install qemu-user-static"
    if [ ! -e /proc/sys/fs/binfmt_misc/register ]; then
        mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc || stop "the kernel has no binfmt_misc" "modprobe binfmt_misc"
        say "mounted binfmt_misc; unmounted at the end"
        trap 'leave; umount /proc/sys/fs/binfmt_misc' EXIT
    else
        trap leave EXIT
    fi
    for file in /proc/sys/fs/binfmt_misc/*aarch64; do
        if [ "$file" != "$entry" ] && grep -qs '^enabled' "$file" && grep -qs '^flags:.*F' "$file"; then
            return 0
        fi
    done
    if [ ! -e "$entry" ]; then
        local magic='\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
        local mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
        printf '%s' ":edgedit-aarch64:M::$magic:$mask:$qemu:POF" > /proc/sys/fs/binfmt_misc/register
        say "registered $qemu for arm64 programs ($entry); removed at the end"
    fi
}

leave() { if [ -e "$entry" ]; then printf '%s' -1 > "$entry"; fi; }

inside() { unshare --mount --pid --fork --kill-child bash "$here/enter.sh" "$root" "$repo" "$out" "$cpu" "$@"; }
board() { inside "/opt/edgedit-$ort/bin/python" -m edgedit "$@"; }

rootfs() {
    [ -e "$place/rootfs.done" ] && return
    say "an arm64 $suite from $mirror (about 6 minutes)"
    local components=main
    [[ $mirror != *ubuntu* ]] || components=main,universe
    # Half a second step cannot be gone on with. It mounts /proc and /sys: in a namespace of its own, so that a kill leaves none.
    ! grep -q " $root/" /proc/mounts || stop "something is mounted below $root" "umount what 'grep $root /proc/mounts' lists"
    rm -rf --one-file-system "$root"
    debootstrap --arch=arm64 --foreign --variant=minbase --components="$components" \
        --include=python3,python3-venv,ca-certificates "$suite" "$root" "$mirror"
    unshare --mount --pid --fork --kill-child chroot "$root" /debootstrap/debootstrap --second-stage
    touch "$place/rootfs.done"
}

# Students with random weights from a fixed seed (a fresh DiT is all zeros); BUNDLES: folders made by edgedit export, tested too.
bundles() {
    "$python" "$here/students.py" "$base/students"
    local name student batch precision attention
    while read -r name student batch precision attention; do
        "$python" -m edgedit export "$student" --out "$base/bundles/$name" --batch "$batch" --precision "$precision" \
            --attention "$attention" >&2
    done < <(cases)
    for name in ${BUNDLES:-}; do
        precision=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["settings"]["precision"])' "$name/manifest.json")
        rm -rf "$base/bundles/extra-$precision-$(basename "$name")"
        cp -r "$name" "$base/bundles/extra-$precision-$(basename "$name")"
    done
}

# name, student, batch, precision, attention
cases() {
    local precision attention
    for precision in fp32 fp16; do
        for attention in pattern ort onnx; do
            echo "digits-$precision-$attention $base/students/digits 32 $precision $attention"
        done
        echo "cifar-$precision-pattern $base/students/cifar 8 $precision pattern"
    done
}

names() { find "$base/bundles" -mindepth 1 -maxdepth 1 -name "*-*-*" -printf "%f\n" | sort; }
count() { case $1 in cifar-*) echo 16 ;; *) echo 128 ;; esac; }

install() {
    local version key copy platforms=()
    version=$(basename "$(find "$root/usr/bin" -name 'python3.[0-9]*' ! -name '*config' | sort | head -1)" | sed s/python//)
    key=$(cd "$repo" && find edgedit pyproject.toml -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
    [ "$(cat "$place/install-$ort.key" 2>/dev/null)" = "$key" ] && return
    say "the base wheel and onnxruntime $ort for Python $version on aarch64"
    copy=$(mktemp -d)
    (cd "$repo" && tar c --exclude=__pycache__ edgedit pyproject.toml README.md LICENSE) | tar x -C "$copy"
    mkdir -p "$place/wheels"
    rm -f "$place"/wheels/edgedit-*.whl
    "$python" -m pip wheel --quiet --no-deps --wheel-dir "$place/wheels" "$copy"
    rm -rf "$copy"
    for tag in 17 24 26 27 28 31 34; do platforms+=(--platform "manylinux_2_${tag}_aarch64"); done
    "$python" - "$repo/pyproject.toml" > "$place/requirements.txt" <<'PY'
import sys, tomllib
print(*tomllib.load(open(sys.argv[1], "rb"))["project"]["dependencies"], sep="\n")
PY
    # By the host's pip, which has a network; names after the file are needed by Python 3.10 only, or by the tests.
    "$python" -m pip download --quiet --dest "$place/wheels" --only-binary=:all: --implementation cp --python-version "$version" \
        --abi "cp${version/./}" --abi abi3 --abi none "${platforms[@]}" --platform manylinux2014_aarch64 \
        -r "$place/requirements.txt" "onnxruntime==$ort" tomli exceptiongroup pytest hypothesis onnx scipy
    inside bash -euc "
        rm -rf /opt/edgedit-$ort /opt/tests-$ort
        for name in edgedit tests; do
            python3 -m venv /opt/\$name-$ort
            /opt/\$name-$ort/bin/pip install --quiet --no-index --find-links /wheels --no-compile edgedit onnxruntime==$ort
        done
        /opt/tests-$ort/bin/pip install --quiet --no-index --find-links /wheels --no-compile pytest hypothesis onnx scipy
        /opt/edgedit-$ort/bin/pip list --format=freeze > /out/packages.txt"
    rm -rf "$out"/*.npz "$out"/*.json "$out"/record-*
    echo "$key" > "$place/install-$ort.key"
}

run_board() {
    local name
    inside "/opt/edgedit-$ort/bin/python" /edgedit/tests/aarch64/make_board.py "$RELEASE"
    say "doctor on the fake board (it may end with a fault that it found)"
    board doctor --json > "$out/doctor.json" || true
    board doctor || true
    inside "/opt/edgedit-$ort/bin/python" /edgedit/tests/aarch64/noise_bits.py "$seed" /out/noise.npz
    for name in $(names); do
        say "$name: generate"
        board generate "/bundles/$name" --count "$(count "$name")" --seed "$seed" --npz "/out/$name.npz" || say "$name: FAILED; compare counts it"
    done
    say "profile, with the board's two power monitors; the second one in another power mode"
    local mode
    mode=$(cat "$root/var/lib/nvpmodel/status")
    board profile /bundles/digits-fp16-pattern --images 32 --idle 2 --warmup 1 --min-seconds 10 --power auto --again --out /out/record-digits
    board profile /bundles/cifar-fp32-pattern --images 16 --idle 2 --warmup 1 --power auto --power-mode "${MODE:-25W}" --again \
        --out /out/record-cifar
    [ "$(cat "$root/var/lib/nvpmodel/status")" = "$mode" ] || stop "profile --power-mode left the board in another power mode"
    board report /out/record-digits --out /out/report.html
    board show /out/record-digits
}

run_compare() {
    local name mine=$base/here
    mkdir -p "$mine"
    "$python" "$here/noise_bits.py" "$seed" "$mine/noise.npz"
    for name in $(names); do
        "$python" -m edgedit generate "$base/bundles/$name" --count "$(count "$name")" --seed "$seed" --npz "$mine/$name.npz" >&2
    done
    say "images, noise and record: this machine against the board"
    "$python" "$here/compare.py" "$mine" "$out"
}

run_tests() {
    say "tests/core and tests/device (about 10 minutes)"
    rm -rf "$root"/tmp/*
    # CI: hypothesis without deadlines. Left out: a tegrastats that has to start, as emulated Python, within a fraction of a second.
    BOARD=no inside bash -c "cd /edgedit && CI=true PIP_RETRIES=0 /opt/tests-$ort/bin/python -m pytest tests/core tests/device ${PYTEST_ARGS:-} \
        -p no:cacheprovider --continue-on-collection-errors --junitxml=/out/tests.xml -o addopts='--strict-markers' -m 'not gpu' \
        --tb=short --durations=5 -rfEs -q -k 'not curve_within_one_percent and not tegrastats_that_dies'" > "$out/tests.log" 2>&1 || true
    tail -n 60 "$out/tests.log"
}

needs
emulate
for stage in "${@:-rootfs bundles install board compare tests}"; do
    for word in $stage; do
        case $word in
            rootfs | bundles | install) "$word" ;;
            board | compare | tests) "run_$word" ;;
            *) stop "no stage '$word'" "rootfs bundles install board compare tests" ;;
        esac
    done
done
