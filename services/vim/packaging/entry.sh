#!/bin/busybox sh
# The first process of a unikernel's pod: boots /unikraft/bin/kernel by QEMU and ends as the guest ended.
#
# Environment, QEMU's words for it, which the cluster's worker gives (none of them has a space in it):
#   MINICLOUD_BOARD_X86_64, MINICLOUD_BOARD_AARCH64: the board for either machine; MINICLOUD_NETWORK
# and the kernel's, already quoted as a kernel reads them:
#   MINICLOUD_LINE        the name and the address
#   MINICLOUD_PARAMETERS  parameters of the kernel
#   MINICLOUD_ENV         parameters that are its environment; MINICLOUD_NAMES: the names in it
#   MINICLOUD_ARGUMENTS   the program's arguments; the image's own where it is not set
# Ends with the guest's own code; what is not its own doing is told in the termination message: "Reason: sentence".
# The same meanings as services/vim/worker/ending.py.
set -u
root=${MINICLOUD_ROOT:-}
run=${MINICLOUD_RUN:-/run/minicloud}
told=${MINICLOUD_TOLD:-/dev/termination-log}
own=$root/unikraft
export QEMU_MODULE_DIR="$root/usr/lib/qemu/modules" LD_LIBRARY_PATH="$root/usr/lib/qemu"
qemu=$(echo "$root"/usr/bin/qemu-system-*)

line() {
    words=${MINICLOUD_LINE:-unikernel}
    given=${MINICLOUD_PARAMETERS-$(cat "$own/defaults/parameters" 2>/dev/null)}
    if [ -n "$initrd" ] && [ ! -f "$own/defaults/mounts-initrd" ]; then
        case " $given" in
        *" vfs.fstab="* | *' "vfs.fstab='*) ;;
        *) words="$words vfs.fstab=[ \"initrd0:/:extract::ramfs=1:\" ]" ;;
        esac
    fi
    for file in "$own"/defaults/env/*; do
        [ -f "$file" ] || continue
        case " ${MINICLOUD_NAMES:-} " in
        *" ${file##*/} "*) ;;
        *) words="$words $(cat "$file")" ;;
        esac
    done
    arguments=${MINICLOUD_ARGUMENTS-$(cat "$own/defaults/arguments" 2>/dev/null)}
    echo "$words${MINICLOUD_ENV:+ $MINICLOUD_ENV}${given:+ $given}${arguments:+ -- $arguments}"
}

# Passes the console on, and remembers what only the console tells.
watch() {
    exec 3>&-
    LC_ALL=C exec busybox awk '
        { print; fflush() }
        /Could not initialize the HWRNG/ { random = 1 }
        tolower($0) ~ /unikraft crash - / { crash = 1 }
        END { exit !NR ? 3 : random ? 4 : crash ? 5 : 0 }'
}

boot() {
    rm -f "$run/console" "$run/complaint" "$run/qemu.log"
    busybox mkfifo "$run/console" || exit 125
    exec 3<>"$run/console" # so that neither side waits for ever for the other
    watch <"$run/console" & # a shell of its own, that becomes awk
    printer=$!
    "$qemu" -L "$root/usr/share/qemu" "$@" -chardev "file,id=console,path=$run/console" -serial chardev:console \
        -D "$run/qemu.log" -trace enable=runstate_set -trace enable=qemu_system_shutdown_request \
        -kernel "$own/bin/kernel" ${initrd:+-initrd "$initrd"} -append "$(line)" 3>&- 2>"$run/complaint" &
    guest=$!
    while :; do
        wait "$guest"
        code=$?
        kill -0 "$guest" 2>/dev/null || break
    done
    exec 3>&-
    wait "$printer"
    printed=$?
    cat "$run/complaint" >&2
    complaint=$(grep -v ': warning: ' "$run/complaint" | tail -n 1)
}

# Writes why into the termination message and ends.
end() {
    printf '%s: %s\n' "$2" "$3" >"$told" 2>/dev/null
    echo "minicloud: $2: $3" >&2
    exit "$1"
}

case $(busybox uname -m) in
aarch64) board=${MINICLOUD_BOARD_AARCH64:-} own_processor=host ;;
*) board=${MINICLOUD_BOARD_X86_64:-} own_processor=host,+x2apic,-pmu ;;
esac
# shellcheck disable=SC2086 # words
set -- $board ${MINICLOUD_NETWORK:-}

initrd=
for file in "$own/bin/initrd" "$root/run/files/initrd"; do
    [ -f "$file" ] && initrd=$file
done
stopped=
guest=
trap 'stopped=yes; [ -n "$guest" ] && kill -TERM "$guest"' TERM INT

if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
    boot "$@" -accel kvm -cpu "$own_processor"
    if [ "$code" != 0 ] && [ "$printed" = 3 ] && [ -z "$stopped" ]; then
        echo "minicloud: KVM is of no use ($complaint); emulating instead" >&2
        boot "$@" -accel tcg,tb-size=32 -cpu max
    fi
else
    boot "$@" -accel tcg,tb-size=32 -cpu max
fi

[ -n "$stopped" ] && exit 0
case $code in
0)
    [ "$printed" = 4 ] && end 1 GuestFailed "the guest demands the processor's random numbers (RDRAND and RDSEED), which QEMU before 8.1.3 does not emulate in full: give it a node with KVM, an image with a newer QEMU, or a kernel that takes random.seed as an argument (CONFIG_LIBUKRANDOM_CMDLINE_SEED)"
    [ "$printed" = 5 ] && end 1 GuestCrashed "the guest crashed; its console says where"
    grep -q runstate_set "$run/qemu.log" 2>/dev/null && ! grep -q qemu_system_shutdown_request "$run/qemu.log" &&
        end 1 GuestReset "the guest reset its machine instead of switching it off; its console may say why"
    exit 0
    ;;
83) exit 0 ;;
85) end 85 GuestCrashed "the guest crashed; its console says where" ;;
1) [ -z "$complaint" ] || end 1 EngineFailed "$complaint" ;;
126 | 127) [ "$printed" != 3 ] || end 1 EngineFailed "QEMU could not be started: ${complaint:-$qemu}" ;;
132 | 134 | 135 | 136 | 139 | 159) end "$code" EngineFailed "${complaint:-QEMU failed ($code)}" ;;
esac
[ "$code" -lt 128 ] && [ $((code % 2)) = 1 ] && exit $(((code - 1) / 2))
exit "$code"
