#!/usr/bin/env bash
# Installs what is missing, builds the packages (scripts/package.sh), and tests them: installed, upgraded with a backlog on
# disk, removed and purged in a clean Debian that debootstrap makes, with the broker of that Debian. Needs root.
#
#   scripts/package-test.sh [options]
#
#   --suite NAME     of Debian: bookworm (default), trixie, forky, sid. On another one than this machine's the package is
#                    built in there, too
#   --deb FILE       test this one, and build none
#   --reproducible   instead: build twice, in other directories and at other times, and compare every byte
#   -h, --help       this text
#
# The clean systems are made once and kept in build/chroots, or in the directory that MM_CHROOTS names.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib-chroot.sh
. "$root/scripts/lib-chroot.sh"

suite=bookworm deb='' reproducible=no
while [ $# -gt 0 ]; do
    case $1 in
        --suite | --deb)
            need_value "$@"
            if [ "$1" = --suite ]; then suite=$2; else deb=$(realpath "$2"); fi
            shift
            ;;
        --reproducible) reproducible=yes ;;
        *) other_argument "$1" ;;
    esac
    shift
done
chroot_suite "$suite"

install_packages "${packages_build[@]}" "${packages_package[@]}" "${packages_package_test[@]}"
work=$(mktemp -d)
trap 'end_booted; rm -rf "$work"' EXIT
begin=$SECONDS

# --- the same bytes --------------------------------------------------------------------------------

# build_elsewhere DIRECTORY: the packages of these sources, copied to there.
build_elsewhere() {
    mkdir -p "$1"
    copy_sources "$1"
    # No cache of the compiler: each is to be compiled.
    env -u CMAKE_C_COMPILER_LAUNCHER "$1/scripts/package.sh" >"$work/log" 2>&1 ||
        { cat "$work/log" >&2 && die "the package does not build in $1"; }
}

if [ $reproducible = yes ]; then
    say "building twice"
    if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
        SOURCE_DATE_EPOCH=$(git -C "$root" log -1 --format=%ct 2>/dev/null || date +%s)
    fi
    export SOURCE_DATE_EPOCH
    (umask 022 && build_elsewhere "$work/a")
    sleep 1.1 # whole seconds are what archives note
    (umask 077 && TZ=Asia/Kathmandu LC_ALL=C.UTF-8 build_elsewhere "$work/another/and longer/directory")
    cd "$work/another/and longer/directory"
    for file in build/packages/* build/package/lib/mosquitto_metamorphosis.so build/package/bin/metamorphosis; do
        cmp "$work/a/$file" "$file" || die "$file is not the same in another directory, at another time"
        note "$(sha256sum <"$file" | cut -c 1-16)  $(basename "$file")"
    done
    [ "$(find build/packages -type f | wc -l)" = 2 ] || die "expected two packages: $(ls build/packages)"
    say "the same bytes, twice ($((SECONDS - begin)) s)"
    exit 0
fi

# --- in a clean system -----------------------------------------------------------------------------

if [ -z "$deb" ]; then
    package_for "$suite"
    deb=$(ls "$root/build/packages/$suite"/metamorphosis_*.deb)
fi
if command -v lintian >/dev/null; then
    say "lintian"
    lintian --allow-root --fail-on error,warning "$deb"
fi

say "testing $(basename "$deb") in a clean Debian $suite"
directory=$(chroot_copy "$suite" "package-test-$suite")
mkdir -p "$directory/packages"
# The same files as another, older version.
dpkg-deb -R "$deb" "$work/old"
sed -i 's/^Version: .*/Version: 0.0.1-1/' "$work/old/DEBIAN/control"
dpkg-deb --root-owner-group -b "$work/old" "$directory/packages/old.deb" >/dev/null
cp "$deb" "$directory/packages/new.deb"
cp "$root"/test/package/*.sh "$directory/packages/"
{
    in_chroot "$directory" apt-get -q update
    in_chroot "$directory" apt-get -q -y install mosquitto-clients kcat
    in_chroot "$directory" apt-get -q -y --download-only install /packages/old.deb
} >"$work/log" 2>&1 || { tail -n 30 "$work/log" >&2 && die "the packages beside it cannot be had"; }
in_chroot "$directory" --offline /packages/inside.sh /packages/old.deb /packages/new.deb

say "testing it under systemd"
in_chroot "$directory" apt-get -q -y install systemd dbus procps >"$work/log" 2>&1 ||
    { tail -n 30 "$work/log" >&2 && die "systemd cannot be had"; }
rm "$directory/usr/sbin/policy-rc.d" # services are to start there
boot_chroot "$directory"
in_booted /packages/systemd.sh /packages/old.deb /packages/new.deb
# What it would not say aloud: that it does not understand a line.
# shellcheck disable=SC2016 # the inner shell expands these
in_booted sh -ec '
    apt-get -q -y install /packages/new.deb >/dev/null 2>&1
    cp -r /usr/share/doc/metamorphosis/examples/mosquitto.service.d /etc/systemd/system/
    said=$(systemd-analyze verify --man=no mosquitto.service 2>&1) && [ -z "$said" ] || { echo "$said" && exit 1; }' ||
    die "systemd does not understand the unit"
end_booted
chroot_remove "$directory"
say "good ($((SECONDS - begin)) s)"
