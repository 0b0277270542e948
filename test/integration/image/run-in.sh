#!/bin/bash
# The first process of a container, in namespaces of its own: makes ROOT its file system, read-only, and becomes the
# program. The capabilities are setpriv's list of what is left.
#
#   run-in.sh ROOT HOSTNAME UID CAPABILITIES [SOURCE:PLACE:ro|rw]... -- PROGRAM [ARGUMENTS]
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
root=$1 name=$2 uid=$3 capabilities=$4
shift 4
mount --make-rprivate /
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755,size=64k tmpfs "$root/dev"
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777,size=64m shm "$root/dev/shm"
for device in null zero full random urandom; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -o remount,ro "$root/dev"
while [ "$1" != -- ]; do
    IFS=: read -r source place how <<<"$1"
    mount --bind "$source" "$root$place"
    mount -o "remount,bind,$how" "$root$place"
    shift
done
shift
hostname "$name"
IFS=$'\n' read -r -d '' -a environment <"$root/run/environment" || true
# It ends with the one who made the namespaces.
exec chroot "$root" env -i "${environment[@]}" setpriv --reuid "$uid" --regid "$uid" --clear-groups \
    --bounding-set "$capabilities" --inh-caps -all --no-new-privs --pdeathsig KILL "$@"
