#!/usr/bin/env bash
# Enter the root file system for one command: called by run.sh in its own mount and process namespace, so that nothing stays.
#   RELEASE=jp6 [BOARD=no] enter.sh ROOT REPO OUT CPU COMMAND...
# /dev, /proc and /sys of the chroot are plain folders, for the fake board's files; the real /proc is mounted aside and only
# what a process needs of itself leads there. With BOARD=no the real /proc covers the fake one, and the machine is no Jetson.
set -euo pipefail
root=$1 repo=$2 out=$3 cpu=$4
shift 4

mkdir -p "$root"/{edgedit,bundles,wheels,out,.proc,proc,sys,dev/shm}
mount -t proc proc "$root/.proc"
for name in self thread-self mounts stat uptime loadavg filesystems version; do
    [ -e "$root/proc/$name" ] || [ -L "$root/proc/$name" ] || ln -s "/.proc/$name" "$root/proc/$name"
done
mount -t tmpfs tmpfs "$root/dev/shm"
if [ "${BOARD:-}" = no ]; then
    mount -t proc proc "$root/proc"
    [ ! -e "$root/etc/nv_tegra_release" ] || mount --bind /dev/null "$root/etc/nv_tegra_release"
fi

mount --bind "$repo" "$root/edgedit"
mount -o remount,bind,ro "$root/edgedit"
[ ! -d "$root/edgedit/.work" ] || mount -t tmpfs tmpfs "$root/edgedit/.work"
mount --bind "$repo/.work/aarch64/bundles" "$root/bundles"
mount -o remount,bind,ro "$root/bundles"
mount --bind "$(dirname "$out")/wheels" "$root/wheels"
mount --bind "$out" "$root/out"

exec chroot "$root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    TMPDIR=/tmp QEMU_CPU="$cpu" PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis COLUMNS=120 \
    FAKE_CURVE='{"kind": "sine", "base_mw": 6000.0, "swing_mw": 0.0, "period_s": 2.0, "origin_ns": 0}' FAKE_STYLE="$RELEASE" FAKE_MODE=normal \
    "$@"
