#!/usr/bin/env bash
# Installs what is missing, builds the plugin natively on several Debians, and runs the integration tests over the broker,
# the librdkafka and the C library of each, with the plugin that was built there and with the one that was built on Debian
# 12. Needs root.
#
#   scripts/matrix.sh [options] [-- more arguments of pytest]
#
#   --suite NAMES    of Debian, with commas between: bookworm,trixie,sid (default), forky
#   --plugin WHICH   native, bookworm, or both (default)
#   --prepare        build and install everything, and run no test
#   --continue       go on where a run was stopped, or failed: builds nothing again, and runs what has not passed yet
#   -k EXPRESSION    only the tests that match, as pytest's -k; all of them take hours
#   -h, --help       this text
#
# The systems are made by debootstrap, once, and kept in build/chroots, or in the directory that MM_CHROOTS names. A
# broker, and the tool, run with the whole /usr of their Debian (test/in_root.c); Kafka and the tests are this machine's.
# Exits 0 when everything passed; the table at the end says what ran.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib-chroot.sh
. "$root/scripts/lib-chroot.sh"

readonly oldest=bookworm # which everything later has to take the plugin of
suite=bookworm,trixie,sid plugin=both prepare_only=no go_on=no
pytest_args=()
while [ $# -gt 0 ]; do
    n_taken=1
    case $1 in
        --plugin)
            need_value "$@"
            plugin=$2
            n_taken=2
            ;;
        --prepare) prepare_only=yes ;;
        --continue) go_on=yes ;;
        *) take_argument suite "$@" ;;
    esac
    shift "$n_taken"
done
IFS=, read -r -a suites <<<"$suite"
for name in "${suites[@]}"; do chroot_suite "$name"; done
case $plugin in
    native | "$oldest" | both) ;;
    *) die "--plugin \"$plugin\": expected native, $oldest or both" ;;
esac
[ "$(id -u)" = 0 ] || die "other Debians need root"

install_packages "${packages_build[@]}" "${packages_unit[@]}" "${packages_integration[@]}" "${packages_package[@]}" \
    "${packages_package_test[@]}"
matrix=$root/build/matrix
rows=()
failed=no

# packages: of each system, and of the oldest. Those that a run goes on with are there.
packages() {
    local name
    if [ $go_on = yes ]; then
        for name in "${suites[@]}" $oldest; do
            [ -e "$root/build/packages/$name" ] || die "--continue: there is nothing for Debian $name to go on with"
        done
        return
    fi
    for name in "${suites[@]}"; do package_for "$name"; done
    case ,$suite, in *,$oldest,*) ;; *) package_for "$oldest" ;; esac
}

# prepare SUITE ORIGIN: $matrix/SUITE-ORIGIN, as a directory that was built in: the plugin and the tool of ORIGIN's package
# for SUITE's broker, and what of the tests' helpers lies beside them.
prepare() {
    local system=$chroots/matrix-$1 place=$matrix/$1-$2 packed=$matrix/unpacked-$2 file
    rm -rf "$place" "$packed"
    mkdir -p "$place/lib" "$place/bin" "$packed"
    dpkg-deb -x "$root/build/packages/$2"/metamorphosis_*.deb "$packed"
    cp "$packed"/usr/lib/*/mosquitto_metamorphosis.so "$packed"/usr/lib/*/metamorphosis_power.so \
        "$root/build/release/lib/libmm_world.so" "$root"/build/release/lib/metamorphosis_mutant_*.so "$place/lib/"
    cp "$root/build/release/bin/loadgen" "$root/build/release/bin/spool_writer" "$place/bin/"
    cp "$packed/usr/bin/metamorphosis" "$place/metamorphosis.$1"
    for file in "$place/mosquitto:/usr/sbin/mosquitto" "$place/bin/metamorphosis:$place/metamorphosis.$1"; do
        printf '#!/bin/sh\nexec "%s" "%s" "%s" "$@"\n' "$root/build/release/bin/in_root" "$system" "${file#*:}" \
            >"${file%%:*}"
        chmod 0755 "${file%%:*}"
    done
}

# prepare_system SUITE: a Debian with the broker and what the plugin needs, by the package; and that of the oldest one can
# be installed there, too.
prepare_system() {
    local system=$chroots/matrix-$1 log=$chroots/matrix-$1.log
    if [ ! -e "$system/etc/debian_version" ]; then
        chroot_copy "$1" "matrix-$1" >/dev/null
        in_chroot "$system" apt-get -q update >"$log" 2>&1
    fi
    in_chroot "$system" --bind "$root/build/packages:/packages" sh -c '
        apt-get -q -y install "$@" /packages/'"$1"'/metamorphosis_*.deb &&
        apt-get -q -s install --reinstall --allow-downgrades /packages/'$oldest'/metamorphosis_*.deb' \
        sh "${packages_broker[@]}" >>"$log" 2>&1 ||
        { tail -n 20 "$log" >&2 && die "the package cannot be installed on Debian $1"; }
}

# run_tests SUITE ORIGIN
run_tests() {
    local place=$matrix/$1-$2 log=$matrix/$1-$2.log passed=$matrix/$1-$2.passed start=$SECONDS code=0 broker tool
    broker=$({ "$place/mosquitto" -h 2>/dev/null || true; } | sed -n '1s/.*version //p')
    tool=$("$place/bin/metamorphosis" version | sed 's/.*(librdkafka \(.*\))/\1/')
    say "Debian $1, Mosquitto $broker, librdkafka $tool; the plugin is built on $2"
    if [ $prepare_only = yes ]; then return; fi
    if [ $go_on = no ]; then rm -f "$passed"; fi
    touch "$passed"
    (cd "$root/test/integration" && PYTHONDONTWRITEBYTECODE=1 MM_TEST_MOSQUITTO=$place/mosquitto \
        MM_TEST_PLUGIN=$place/lib/mosquitto_metamorphosis.so MM_TEST_PASSED=$passed \
        "$root/build/venv/bin/python" -m pytest "${pytest_args[@]}" 2>&1) | tee "$log" || code=$?
    if [ $code -ne 0 ]; then failed=yes; fi
    rows+=("$(printf '%-10s %-10s %-11s %-10s %-7s %s' "$1" "$broker" "$tool" "$2" "$(wc -l <"$passed")" \
        "$(tail -n 1 "$log" | sed 's/^[= ]*//; s/[= ]*$//') ($((SECONDS - start)) s)")")
}

packages
build release "${targets_integration[@]}" in_root
prepare_venv venv test/integration/requirements.txt
for name in "${suites[@]}"; do
    prepare_system "$name"
    if [ "$plugin" != "$oldest" ] || [ "$name" = "$oldest" ]; then
        prepare "$name" "$name"
        run_tests "$name" "$name"
    fi
    if [ "$plugin" != native ] && [ "$name" != "$oldest" ]; then
        prepare "$name" "$oldest"
        run_tests "$name" "$oldest"
    fi
done

if [ $prepare_only = yes ]; then exit 0; fi
printf '\n%-10s %-10s %-11s %-10s %-7s %s\n' Debian Mosquitto librdkafka "built on" passed "in this run"
printf '%s\n' "${rows[@]}"
[ $failed = no ] || die "not all passed; the output is in $matrix/*.log"
