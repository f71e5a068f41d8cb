#!/usr/bin/env bash
# List or set a Jetson's power mode by name, or run a command in one and put everything back.
#
#   jetson/power-mode.sh                         the modes of this board, the live one marked
#   jetson/power-mode.sh 25W                     set the mode; it stays, over reboots too
#   jetson/power-mode.sh 25W -- COMMAND…         set mode, pin clocks, run, put mode and clocks back
#   jetson/power-mode.sh --no-lock 25W -- …      the same without pinning clocks
#   jetson/power-mode.sh --restore               put back what a run left that was killed with -9 or lost its power
#
# Names and ids are read from the board's own /etc/nvpmodel.conf: id 0 is 15W on one board and MAXN on another.
# The board is put back on exit, Ctrl-C, SIGTERM and hang-up; a second run, or --restore, does it after kill -9.
# EDGEDIT_ROOT (a folder instead of /) and EDGEDIT_STATE are for tests.
set -euo pipefail

ROOT=${EDGEDIT_ROOT:-}
STATE=${EDGEDIT_STATE:-/var/tmp/edgedit-power}
CONF=$ROOT/etc/nvpmodel.conf
STATUS=$ROOT/var/lib/nvpmodel/status
# On a board it is a link with an absolute target, which has to be read from the same root.
if [ -n "$ROOT" ] && [ -L "$CONF" ]; then CONF=$ROOT$(readlink "$CONF"); fi

die() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '  fix: %s\n' "$2" >&2
    exit "${3:-1}"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -- "$@"; fi
}

change() {
    printf '+ %s\n' "$*" >&2
    as_root "$@"
}

usage() {
    sed -n '4,8s/^# \{0,3\}//p' "${BASH_SOURCE[0]}"
}

# Lines "ID NAME"; `table` holds them.
table=
modes() {
    [ -r "$CONF" ] || die "$CONF cannot be read: this is no Jetson, or a container without it" \
        "in a container: -v /etc/nvpmodel.conf:/etc/nvpmodel.conf:ro" 4
    local s='[[:space:]]'
    sed -nE "s/^$s*<$s*POWER_MODEL$s+ID=([0-9]+)$s+NAME=([^>[:space:]]+)$s*>.*\$/\1 \2/p" "$CONF"
}

name_of() { printf '%s\n' "$table" | awk -v id="$1" '$1 == id { print $2 }'; }
names() { printf '%s\n' "$table" | awk '{ printf "%s%s", sep, $2; sep = ", " }'; }
id_of() { printf '%s\n' "$table" | awk -v name="$1" 'tolower($2) == tolower(name) { print $1 }'; }

live_id() {
    local digits=
    if [ -r "$STATUS" ]; then
        digits=$(sed -nE 's/.*pmode:0*([0-9]+).*/\1/p' "$STATUS")
    fi
    if [ -z "$digits" ]; then
        digits=$(as_root nvpmodel -q 2>/dev/null | sed -nE 's/^([0-9]+)$/\1/p' | tail -n 1)
    fi
    [ -n "$digits" ] || die "the live power mode cannot be told" "sudo nvpmodel -q" 4
    printf '%s\n' "$digits"
}

list() {
    local live id name
    live=$(live_id)
    while read -r id name; do
        if [ "$id" = "$live" ]; then printf '* %s\n' "$name"; else printf '  %s\n' "$name"; fi
    done <<<"$table"
}

# Set a mode by name. nvpmodel asks before a restart of the board; the answer is no.
set_mode() {
    local name=$1 id said
    id=$(id_of "$name")
    [ -n "$id" ] || die "this board has no power mode '$name'" "one of: $(names)" 2
    if [ "$(live_id)" = "$id" ]; then
        printf 'power mode: %s already\n' "$(name_of "$id")" >&2
        return
    fi
    printf '+ nvpmodel -m %s  (%s)\n' "$id" "$(name_of "$id")" >&2
    said=$(printf 'no\n' | as_root nvpmodel -m "$id" 2>&1) || true
    if grep -qi 'reboot required' <<<"$said"; then
        die "power mode $name needs a restart of the board: it has another number of GPU clusters" "sudo nvpmodel -m $id, answer YES" 3
    fi
    [ "$(live_id)" = "$id" ] || die "nvpmodel did not set $name: ${said:-it said nothing}" "sudo nvpmodel -m $id" 3
}

# --- what to put back: a file, so that it outlives this process -----------------------------------------------------------------

field() { sed -n "s/^$1=//p" "$STATE/state" 2>/dev/null || true; }

# When a process began, in ticks since boot; with the boot it names a process for good, which its number does not.
began() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20 || true; }

# The process whose run holds the board.
held_by() {
    local pid
    pid=$(field pid)
    if [ -n "$pid" ] && [ "$(field boot)" = "$(boot)" ] && [ -n "$(began "$pid")" ] && [ "$(field began)" = "$(began "$pid")" ]; then
        printf '%s\n' "$pid"
    fi
}

# Root writes what these files say: nobody else may own or change them.
own_state() {
    mkdir -m 755 "$STATE" 2>/dev/null || true
    [ -d "$STATE" ] || die "$STATE cannot be made" "look at what is there, or set EDGEDIT_STATE to another folder" 6
    local owner
    owner=$(stat -c %u "$STATE")
    if [ -L "$STATE" ] || { [ "$owner" != "$EUID" ] && [ "$owner" != 0 ] && [ "$owner" != "${SUDO_UID:-$EUID}" ]; } || [ ! -w "$STATE" ]; then
        die "$STATE belongs to somebody else" "run it as the user of the run before, or as root; or: sudo rm -r $STATE" 6
    fi
    chmod go-w "$STATE"
}

restore() {
    [ -f "$STATE/state" ] || return 0
    own_state
    local mode code=0 same_boot=no
    mode=$(field mode)
    [ "$(field boot)" != "$(boot)" ] || same_boot=yes
    # Clocks that a mode's pinning changed go back under that mode, then the mode, then the clocks as they were found.
    if [ $same_boot = yes ] && [ -s "$STATE/within" ]; then change jetson_clocks --restore "$STATE/within" >&2 || code=1; fi
    if [ -n "$mode" ]; then (set_mode "$mode") || code=1; fi
    if [ $same_boot = yes ] && [ -s "$STATE/before" ]; then change jetson_clocks --restore "$STATE/before" >&2 || code=1; fi
    if [ $code -ne 0 ]; then
        printf 'error: the board could not be put back whole\n  fix: %s --restore\n' "${BASH_SOURCE[0]}" >&2
        return $code
    fi
    forget
    printf 'board put back: power mode %s\n' "$mode" >&2
}

boot() { cat /proc/sys/kernel/random/boot_id 2>/dev/null || true; }

forget() { as_root rm -f "$STATE/state" "$STATE/before" "$STATE/within"; }

# jetson_clocks asks before it writes over a file, so the file goes first.
store_clocks() {
    as_root rm -f "$1"
    change jetson_clocks --store "$1" >&2
}

child=
helper=
starting=no
early=
stopped=0
interrupted=0
on_signal() {
    interrupted=1
    stopped=$2
    if [ -n "$child" ]; then
        pass_on "$1"
    elif [ $starting = yes ]; then
        early=$1  # the command may have begun already, under a number that is not known yet
    else
        exit "$2"
    fi
}

pass_on() {
    kill -s "$1" -- "-$child" 2>/dev/null || true
    kill -s CONT -- "-$child" 2>/dev/null || true  # one that waits for a terminal would not hear it
}

# sudo forgets a password after some minutes, and it is needed again at the end.
remember_password() {
    while sleep 60 && kill -0 $$ && sudo -n -v; do :; done
}

# Nothing may cut the way back: signals are held off, and the exit status stays that of the command.
on_exit() {
    local code=$?
    trap '' INT TERM HUP
    [ -z "$helper" ] || kill "$helper" 2>/dev/null || true
    restore || { [ $code -ne 0 ] || code=1; }
    exit $code
}

run_in() {
    local name=$1 lock=$2 code
    shift 2
    [ $# -gt 0 ] || die "no command after --" "$0 $name -- COMMAND" 2
    command -v "$1" >/dev/null || die "no such command: $1" "" 127
    local holder before
    holder=$(held_by)
    [ -z "$holder" ] || die "another run has set this board's power mode: process $holder" "wait until it is done" 6
    if [ -f "$STATE/state" ]; then
        printf 'an earlier run was cut off; the board is put back first\n' >&2
        restore
    fi
    [ -n "$(id_of "$name")" ] || set_mode "$name"  # says which modes there are
    before=$(name_of "$(live_id)")
    [ -n "$before" ] || die "the live power mode cannot be told, so it could not be put back" "sudo nvpmodel -q" 4
    own_state
    trap on_exit EXIT
    trap 'on_signal INT 130' INT
    trap 'on_signal TERM 143' TERM
    trap 'on_signal HUP 129' HUP
    printf 'pid=%s\nbegan=%s\nboot=%s\nmode=%s\n' $$ "$(began $$)" "$(boot)" "$before" >"$STATE/state.part"
    sync "$STATE/state.part"
    mv "$STATE/state.part" "$STATE/state"
    if [ "$lock" = yes ]; then store_clocks "$STATE/before"; fi
    set_mode "$name"
    if [ "$lock" = yes ]; then
        store_clocks "$STATE/within"
        change jetson_clocks >&2
    fi
    if [ "$(id -u)" -ne 0 ]; then
        remember_password </dev/null >/dev/null 2>&1 &
        helper=$!
    fi
    # In a process group of its own, so that a signal to this script reaches all of the command, once. Such a group cannot read
    # from a terminal, so it gets none.
    if [ -t 0 ]; then exec </dev/null; fi
    starting=yes
    set -m
    "$@" &
    child=$!
    set +m
    [ -z "$early" ] || pass_on "$early"
    while :; do
        interrupted=0 code=0
        wait "$child" || code=$?
        [ $interrupted -eq 1 ] || break
    done
    child=
    [ "$stopped" -eq 0 ] || [ $code -ne 0 ] || code=$stopped
    exit $code
}

main() {
    local lock=yes name=
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) usage; exit 0 ;;
            --restore)
                [ -f "$STATE/state" ] || { printf 'nothing to put back\n' >&2; exit 0; }
                [ -z "$(held_by)" ] || die "a run is under way: process $(held_by)" "wait until it is done" 6
                table=$(modes)
                restore
                exit ;;
            --no-lock) lock=no ;;
            --) break ;;
            -*) die "unknown option $1" "$0 --help" 2 ;;
            *) [ -z "$name" ] || die "one mode only: $name or $1" "a command comes after --" 2; name=$1 ;;
        esac
        shift
    done
    table=$(modes)
    if [ -z "$name" ]; then
        [ $# -eq 0 ] || die "no mode before --" "$0 25W -- COMMAND" 2
        list
    elif [ $# -gt 0 ]; then
        shift
        run_in "$name" "$lock" "$@"
    else
        set_mode "$name"
    fi
}

main "$@"
