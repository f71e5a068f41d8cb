#!/usr/bin/env bash
# Prepare a Jetson Orin (JetPack 6.1 or newer, 7.2 or newer) for edgedit. Run it again at any time: what is there is left alone.
#
#   jetson/setup.sh [--dry-run] [--yes] [--venv DIR] [--source PATH|NAME] [--ort] [--swap GB]
#
#   --dry-run   print the changes and make none
#   --yes       do not ask before making them
#   --venv      the environment (default ~/edgedit/venv, the one of `edgedit deploy`)
#   --source    what to install: a checkout, a wheel or a package name (default: the checkout that this script is in)
#   --ort       also onnxruntime-gpu, from the index that builds it for Orin
#   --swap      also a swap file of so many GB, where there is none on a disk
#
# Every change is printed as a command before it is made. EDGEDIT_ROOT (a folder instead of /) is for tests.
set -Eeuo pipefail

ROOT=${EDGEDIT_ROOT:-}
CUDA=$ROOT/usr/local/cuda
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$HOME/edgedit/venv
source=edgedit
[ ! -f "$here/pyproject.toml" ] || source=$here
swap_gb=0 dry=no yes=no ort=no
phase=plan changes=0

die() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '  fix: %s\n' "$2" >&2
    exit "${3:-1}"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -- "$@"; fi
}

# Print a change; in the second phase make it. `change root …` makes it as root.
change() {
    local who=$1
    shift
    changes=$((changes + 1))
    if [ "$who" = root ] && [ "$(id -u)" -ne 0 ]; then printf '+ sudo %s\n' "$*"; else printf '+ %s\n' "$*"; fi
    [ $phase = make ] || return 0
    if [ "$who" = root ]; then as_root "$@"; else "$@"; fi
}

# Sets l4t, jetpack (6 or 7) and the versions that come with it.
detect() {
    local line
    [ -r "$ROOT/etc/nv_tegra_release" ] || die "no /etc/nv_tegra_release: this is no Jetson" "run it on the board" 4
    line=$(head -n 1 "$ROOT/etc/nv_tegra_release")
    l4t=$(sed -nE 's/^# *R([0-9]+) *\(release\), *REVISION: *([0-9.]+).*/\1.\2/p' <<<"$line")
    case $l4t in
        36.[4-9]*) jetpack=6 tensorrt=10.3 cuda=12-6 index=jp6/cu126 ;;
        39.*) jetpack=7 tensorrt=10.16 cuda=13-2 index=sbsa/cu132 ;;
        35.* | 36.*) die "Jetson Linux $l4t is JetPack 5 or 6.0, whose TensorRT is too old" "install JetPack 6.2 or 7.2" 4 ;;
        38.*) die "Jetson Linux $l4t is for Thor; no Orin runs it" "install JetPack 6.2 or 7.2" 4 ;;
        *) die "this Jetson Linux is not known: ${l4t:-$line}" "install JetPack 6.2 or 7.2" 4 ;;
    esac
    printf 'Jetson Linux %s, JetPack %s\n' "$l4t" "$jetpack"
}

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

packages() {
    local wanted=(python3-venv python3-dev build-essential rsync) missing=() name version
    # Other repositories offer TensorRT 11 for the same names: the module must be of the library's version.
    version=$(dpkg-query -W -f='${Version}' libnvinfer10 2>/dev/null) || version=
    for name in python3-libnvinfer python3-libnvinfer-dev; do
        installed "$name" || missing+=("$name=${version:-$tensorrt.*}")
    done
    # JetPack 6's TensorRT loads libnvdla_compiler.so even on boards without a DLA; JetPack 7's does not.
    [ "$jetpack" != 6 ] || wanted+=(nvidia-l4t-dla-compiler)
    # pycuda has no wheel: it wants nvcc and the headers of the driver, the runtime, the profiler and cuRAND.
    if [ ! -x "$CUDA/bin/nvcc" ]; then
        wanted+=("cuda-nvcc-$cuda" "cuda-cudart-dev-$cuda" "cuda-driver-dev-$cuda" "cuda-profiler-api-$cuda" "libcurand-dev-$cuda")
    fi
    for name in "${wanted[@]}"; do
        installed "$name" || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    change root apt-get update
    change root apt-get install --yes --no-install-recommends "${missing[@]}"
}

environment() {
    local file=$venv/pyvenv.cfg
    if [ -x "$venv/bin/python" ] && [ -f "$file" ]; then
        # TensorRT's module belongs to the system: an environment that hides the system hides it.
        grep -Eqi '^include-system-site-packages *= *true' "$file" ||
            change user sed -i -E 's/^(include-system-site-packages *= *).*/\1true/' "$file"
        return 0
    fi
    change user python3 -m venv --system-site-packages "$venv"
}

# Names what would be installed: the same name, nothing to do.
stamp() {
    if [ -d "$source" ]; then
        (cd "$source" && find edgedit pyproject.toml -type f -not -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) |
            sha256sum | cut -c1-16
    elif [ -f "$source" ]; then
        sha256sum "$source" | cut -c1-16
    else
        printf '%s\n' "$source"
    fi
}

has_module() {
    [ -x "$venv/bin/python" ] && "$venv/bin/python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)"
}

python_packages() {
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check install)
    local now
    now=$(stamp)
    if [ "$(cat "$venv/edgedit-source" 2>/dev/null || true)" != "$now" ] || ! has_module edgedit || ! has_module pycuda; then
        change user env "PATH=$CUDA/bin:$PATH" "CUDA_ROOT=$CUDA" "${pip[@]}" "${source}[jetson]"
        change user "${pip[@]}" --force-reinstall --no-deps "$source"
        change user sh -c "echo '$now' > '$venv/edgedit-source'"
    fi
    if [ $ort = yes ] && ! has_module onnxruntime; then
        change user "${pip[@]}" --index-url "https://pypi.jetson-ai-lab.io/$index/+simple/" onnxruntime-gpu
    fi
}

# JetPack's zram swap lies in memory and does not help a build; a file on the disk does.
swap() {
    local file=$ROOT/swapfile-edgedit
    [ "$swap_gb" -gt 0 ] || return 0
    if ! awk 'NR > 1 && $1 !~ /zram/ { found = 1 } END { exit !found }' "$ROOT/proc/swaps" 2>/dev/null; then
        change root fallocate -l "${swap_gb}G" "$file"
        change root chmod 600 "$file"
        change root mkswap "$file"
        change root swapon "$file"
    elif ! grep -q "^$file " "$ROOT/proc/swaps"; then
        return 0
    fi
    grep -qF "$file none swap" "$ROOT/etc/fstab" 2>/dev/null || grep -Eq '^[^#]+[[:space:]]swap[[:space:]]' "$ROOT/etc/fstab" 2>/dev/null ||
        change root sh -c "echo '$file none swap sw 0 0' >> '$ROOT/etc/fstab'"
}

all() {
    packages
    environment
    python_packages
    swap
}

arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
            --dry-run) dry=yes ;;
            --yes | -y) yes=yes ;;
            --ort) ort=yes ;;
            --venv | --source | --swap)
                [ $# -ge 2 ] || die "$1 wants a value" "$0 --help" 2
                case $1 in --venv) venv=$2 ;; --source) source=$2 ;; --swap) swap_gb=$2 ;; esac
                shift ;;
            -h | --help) sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
            *) die "unknown option $1" "$0 --help" 2 ;;
        esac
        shift
    done
    [[ $swap_gb =~ ^[0-9]+$ ]] || die "--swap takes whole gigabytes" "--swap 8" 2
}

main() {
    arguments "$@"
    detect
    printf 'changes:\n'
    all
    if [ $changes -eq 0 ]; then
        printf 'none: everything is there\n'
    elif [ $dry = yes ]; then
        exit 0
    else
        if [ $yes = no ]; then
            [ -t 0 ] || die "nobody is there to be asked" "$0 --yes" 2
            local answer
            read -r -p "Make these $changes changes? [y/N] " answer
            case $answer in y | Y | yes) ;; *) printf 'nothing was changed\n'; exit 1 ;; esac
        fi
        phase=make changes=0
        trap 'printf "error: the change above failed; when it is mended, run this again: it goes on there\n" >&2' ERR
        all
        trap - ERR
    fi
    [ $dry = no ] || exit 0
    printf 'edgedit doctor:\n'
    "$venv/bin/edgedit" doctor
}

main "$@"
