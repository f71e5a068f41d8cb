#!/usr/bin/env bash
# Run edgedit in a container on a Jetson, with what it reads of the board mounted.
#
#   jetson/run-container.sh [--image NAME] [--cache VOLUME] [--root] [--dry-run] [--] edgedit's arguments…
#
#   --image    default edgedit:jp6 or edgedit:jp7, by the board
#   --cache    volume for engines (default edgedit-cache)
#   --root     as root, with debugfs: GPU and memory clocks in tegrastats; setting modes still is the host's business
#   --dry-run  print the command
#
# The working folder is mounted as /work. What is not there is left out, and said. EDGEDIT_ROOT (instead of /) is for tests.
set -euo pipefail

ROOT=${EDGEDIT_ROOT:-}
image='' cache=edgedit-cache root=no dry=no

die() {
    printf 'error: %s\n  fix: %s\n' "$1" "$2" >&2
    exit 2
}

# Mount a file or folder of the board read-only under its own name, where it exists: docker would make a folder of a missing file.
mounts=()
mount() {
    if [ -e "$ROOT$1" ]; then
        mounts+=(--volume "$1:$1:ro")
    else
        printf 'not on this board: %s (%s)\n' "$1" "$2" >&2
    fi
}

while [ $# -gt 0 ]; do
    case $1 in
        --image | --cache)
            [ $# -ge 2 ] || die "$1 wants a value" "$0 --help"
            case $1 in --image) image=$2 ;; --cache) cache=$2 ;; esac
            shift ;;
        --root) root=yes ;;
        --dry-run) dry=yes ;;
        -h | --help) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        --) shift; break ;;
        *) break ;;
    esac
    shift
done

release=$(sed -nE '1s/^# *R([0-9]+) .*/\1/p' "$ROOT/etc/nv_tegra_release" 2>/dev/null || true)
if [ -z "$image" ]; then
    case $release in
        36) image=edgedit:jp6 ;;
        39) image=edgedit:jp7 ;;
        *) die "which image fits cannot be told: no Jetson Linux 36 or 39 here" "--image NAME" ;;
    esac
fi

mount /etc/nv_tegra_release "the JetPack release"
mount /etc/nvpmodel.conf "names of the power modes"
mount /var/lib/nvpmodel "the live power mode"
mount /usr/bin/tegrastats "the second power log"
# The runtime brings /dev/nvhost-* and libcuda; --gpus alone does not on a Jetson. tegrastats wants the host's processes.
command=(docker run --rm --runtime nvidia --pid=host --volume "$cache:/cache" --volume "$PWD:/work" "${mounts[@]}")
if [ $root = yes ]; then
    command+=(--user 0:0 --volume /sys/kernel/debug:/sys/kernel/debug:ro)
else
    command+=(--user "$(id -u):$(id -g)" --env HOME=/tmp)
    # The GPU's device files belong to these groups; their numbers are those of the board.
    for group in video render; do
        number=$(getent group "$group" | cut -d : -f 3 || true)
        if [ -n "$number" ]; then command+=(--group-add "$number"); fi
    done
fi
if [ -t 0 ] && [ -t 1 ]; then command+=(--interactive --tty); fi
command+=("$image" "$@")
printf '+'
printf ' %q' "${command[@]}"
printf '\n'
[ $dry = no ] || exit 0
exec "${command[@]}"
