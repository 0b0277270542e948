# shellcheck shell=bash
# Clean Debian systems in directories, for scripts/package-test.sh, scripts/matrix.sh and docker/build.sh. To be sourced
# after lib.sh, as root. The packages come from the mirror that this machine's apt fetches from.
#
# A base is made once for each suite and kept in $chroots (build/chroots, or MM_CHROOTS); what is worked in is a copy.

# Where bases, copies and fetched packages lie.
chroots=${MM_CHROOTS:-$root/build/chroots}

# The mirror of Debian that this machine fetches its packages from.
debian_mirror() {
    local uri
    # shellcheck disable=SC2016 # apt replaces these
    uri=$(apt-get indextargets --format '$(CREATED_BY) $(ORIGIN) $(RELEASE) $(REPO_URI)' |
        awk '$1 == "Packages" && $2 == "Debian" && $3 !~ /-/ { print $4; exit }')
    [ -n "$uri" ] || die "no mirror of Debian among the sources of apt (apt-get update helps)"
    printf '%s\n' "$uri"
}

# bootstrap_debian SUITE DIRECTORY LOG: what is essential, and apt. No service starts in there by itself.
bootstrap_debian() {
    local suite=$1 directory=$2 log=$3 uri script
    uri=$(debian_mirror) || exit
    # A suite that this debootstrap does not know is made as sid is.
    script=/usr/share/debootstrap/scripts/$suite
    if [ ! -e "$script" ]; then script=/usr/share/debootstrap/scripts/sid; fi
    debootstrap --variant=minbase "$suite" "$directory" "$uri" "$script" >"$log" 2>&1 ||
        { tail -n 20 "$log" >&2 && die "debootstrap failed"; }
    printf '#!/bin/sh\nexit 101\n' >"$directory/usr/sbin/policy-rc.d"
    chmod 0755 "$directory/usr/sbin/policy-rc.d"
    # A mirror may be a copy of another day.
    echo 'Acquire::Check-Valid-Until "false";' >"$directory/etc/apt/apt.conf.d/any-day"
}

# chroot_suite NAME: is it one that we know?
chroot_suite() {
    case $1 in
        bookworm | trixie | forky | sid) ;;
        *) die "suite \"$1\": expected bookworm, trixie, forky or sid" ;;
    esac
}

# chroot_base SUITE: makes the base if it is not there, and prints its directory.
chroot_base() {
    local suite=$1 base=$chroots/base-$1
    if [ -e "$base/etc/debian_version" ]; then
        printf '%s\n' "$base"
        return
    fi
    say "making a Debian $suite in $base (once)" >&2
    mkdir -p "$chroots"
    rm -rf "$base.new"
    bootstrap_debian "$suite" "$base.new" "$chroots/debootstrap-$suite.log"
    printf '%s\n' 'Acquire::Retries "3";' 'APT::Sandbox::User "root";' 'Acquire::Languages "none";' \
        'APT::Install-Recommends "false";' >>"$base.new/etc/apt/apt.conf.d/any-day"
    rm -rf "$base.new"/var/cache/apt/*.bin
    mv "$base.new" "$base"
    printf '%s\n' "$base"
}

# chroot_copy SUITE NAME: a fresh copy of the base; prints its directory.
chroot_copy() {
    local base copy=$chroots/$2
    base=$(chroot_base "$1")
    chroot_remove "$copy"
    cp -a --reflink=auto "$base" "$copy"
    printf '%s\n' "$copy"
}

# chroot_remove DIRECTORY: nothing is mounted in it for others than those who run in it.
chroot_remove() {
    case $1 in
        "$chroots"/?*) rm -rf --one-file-system "$1" ;;
        *) die "$1 is not in $chroots" ;;
    esac
}

# in_chroot DIRECTORY [--offline] [--bind SOURCE:PLACE]... COMMAND...: runs it in there as root, with processes and mounts
# of its own, and an empty environment but for proxies. The network is this machine's, or, offline, a loopback interface
# of its own. All that it started ends with it. Fetched packages are kept for the next time.
in_chroot() {
    local directory=$1 binds=() name keep=() cache network=()
    shift
    while [ "$1" = --bind ] || [ "$1" = --offline ]; do
        if [ "$1" = --bind ]; then
            binds+=("$2")
            shift
        else
            network=(--net)
        fi
        shift
    done
    for name in http_proxy https_proxy no_proxy; do
        if [ -n "${!name:-}" ]; then keep+=("$name=${!name}"); fi
    done
    cache=$chroots/packages-$(sed -n 's/^VERSION_CODENAME=//p' "$directory/etc/os-release")
    mkdir -p "$cache/partial"
    binds+=("$cache:/var/cache/apt/archives")
    # shellcheck disable=SC2016 # the inner shell expands these
    unshare --mount --pid --fork --kill-child=KILL "${network[@]}" bash -c '
        set -euo pipefail
        directory=$1
        shift
        mount --make-rprivate /
        ip link set lo up
        mount -t proc proc "$directory/proc"
        mount -t sysfs -o ro sysfs "$directory/sys"
        mount --rbind /dev "$directory/dev"
        while [ "$1" != -- ]; do
            mkdir -p "$directory${1#*:}"
            mount --bind "${1%%:*}" "$directory${1#*:}"
            shift
        done
        shift
        for file in /etc/resolv.conf /etc/hosts; do
            if [ -e "$file" ]; then cat "$file" >"$directory$file"; fi
        done
        exec chroot "$directory" /usr/bin/env -i "$@"' bash \
        "$directory" "${binds[@]}" -- PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
        TERM=dumb DEBIAN_FRONTEND=noninteractive "${keep[@]}" "$@"
}

# copy_sources DIRECTORY: the sources as they are here, without what was built.
copy_sources() {
    git -C "$root" ls-files -z --cached --others --exclude-standard |
        (cd "$root" && xargs -0 ls -d 2>/dev/null) | tar -C "$root" -cf - -T - | tar -C "$1" -xf - --no-same-owner
}

# package_for SUITE: the packages, built natively there, in build/packages/SUITE.
package_for() {
    local suite=$1 output=$root/build/packages/$1 directory
    rm -rf "$output"
    mkdir -p "$output"
    if [ "$suite" = "$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)" ]; then
        "$root/scripts/package.sh" --output "$output"
        return
    fi
    directory=$chroots/build-$suite
    if [ ! -e "$directory/etc/debian_version" ]; then directory=$(chroot_copy "$suite" "build-$suite"); fi
    rm -rf "$directory/source"
    mkdir -p "$directory/source"
    copy_sources "$directory/source"
    in_chroot "$directory" --bind "$output:/output" env \
        "SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct)}" \
        /source/scripts/package.sh --output /output
}

# chroot_install DIRECTORY PACKAGE...: with apt.
chroot_install() {
    local directory=$1
    shift
    in_chroot "$directory" sh -c 'apt-get -q update && apt-get -q -y install "$@"' sh "$@"
}

# boot_chroot DIRECTORY: starts the systemd that is installed in there, as the first process of a system with processes,
# mounts, control groups, a name and a loopback interface of its own. To be entered by in_booted, and ended by end_booted.
boot_chroot() {
    booted_directory=$1
    booted_group=metamorphosis-$$
    mkdir -p "$booted_directory/var/cache/apt/archives"
    # shellcheck disable=SC2016 # the inner shells expand these
    unshare --mount --pid --uts --ipc --net --fork --kill-child=KILL bash -c '
        set -euo pipefail
        mount --make-rprivate /
        mount --bind "$1" "$1"
        cd "$1"
        ip link set lo up
        hostname package-test
        mount -t proc proc proc
        mount -t sysfs sysfs sys
        # What it sees of the control groups is one of its own, and those that it makes in there.
        mount -t cgroup2 cgroup2 sys/fs/cgroup
        mkdir -p "sys/fs/cgroup/$2"
        echo 0 >"sys/fs/cgroup/$2/cgroup.procs"
        umount sys/fs/cgroup
        mount -t tmpfs -o mode=0755 tmpfs run
        mount -t tmpfs -o mode=0755 tmpfs dev
        for name in null zero full random urandom tty; do
            touch "dev/$name"
            mount --bind "/dev/$name" "dev/$name"
        done
        mkdir dev/pts dev/shm
        mount -t tmpfs tmpfs dev/shm
        mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
        ln -s pts/ptmx dev/ptmx
        ln -s /proc/self/fd dev/fd
        ln -s null dev/kmsg
        mount --bind "$3" var/cache/apt/archives
        exec unshare --cgroup sh -c "mount -t cgroup2 cgroup2 sys/fs/cgroup && exec chroot . /usr/bin/env -i \
            container=chroot SYSTEMD_LOG_TARGET=console /lib/systemd/systemd --system"' bash \
        "$booted_directory" "$booted_group" "$chroots/packages-$(sed -n 's/^VERSION_CODENAME=//p' "$1/etc/os-release")" \
        >"$chroots/booted.log" 2>&1 &
    booted_shell=$!
    local n
    for ((n = 0; n < 300; n++)); do
        sleep 0.1
        booted=$(cat "/proc/$booted_shell/task/$booted_shell/children" 2>/dev/null || true)
        booted=${booted%% *}
        if [ -z "$booted" ]; then continue; fi
        in_booted systemctl is-system-running --wait >"$chroots/booted.state" 2>/dev/null || true
        # Degraded: a unit that wants a real machine has failed.
        case $(cat "$chroots/booted.state") in running | degraded) return ;; esac
    done
    tail -n 20 "$chroots/booted.log" >&2
    die "no systemd runs in $1: it is \"$(cat "$chroots/booted.state" 2>/dev/null)\""
}

# in_booted COMMAND...: as root, in the system that boot_chroot has started.
in_booted() {
    nsenter --target "$booted" --mount --pid --uts --ipc --net --cgroup chroot "$booted_directory" /usr/bin/env -i \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 TERM=dumb \
        DEBIAN_FRONTEND=noninteractive "$@"
}

# end_booted: all that runs in it ends, and what it had made of control groups is removed. Accepts that there is none.
end_booted() {
    if [ -z "${booted_shell:-}" ]; then return; fi
    kill -KILL "$booted_shell" 2>/dev/null || true
    wait "$booted_shell" 2>/dev/null || true
    booted_shell=
    rm -f "$chroots/booted.log" "$chroots/booted.state"
    # shellcheck disable=SC2016 # the inner shell expands these
    unshare --mount bash -c '
        mount --make-rprivate /
        mount -t cgroup2 cgroup2 /mnt
        for ((n = 0; n < 50; n++)); do
            find "/mnt/$1" -depth -type d -exec rmdir {} + 2>/dev/null
            if [ ! -e "/mnt/$1" ]; then break; fi
            sleep 0.1
        done' bash "$booted_group" || true
}
