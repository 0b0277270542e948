#!/usr/bin/env bash
# Installs what is missing, builds, and runs the tests: unit tests by ctest, integration tests by pytest against a real
# Mosquitto and a real Apache Kafka.
#
#   scripts/test.sh [options] [-- more arguments of pytest]
#
#   --preset NAME   release (default), bundled, debug, asan, tsan
#   --unit          the unit tests only
#   --integration   the integration tests only
#   --long          long outages, a thousand kills, gigabytes of backlog (MM_TEST_LONG=1): hours
#   -k EXPRESSION   only the integration tests that match, as pytest's -k
#   -h, --help      this text
#
# Some integration tests mount small disks and become another user: run them as root.
#
# MM_TEST_KAFKA=host:port runs the integration tests that neither stop nor configure Kafka against that cluster. More
# variables: test/integration/conftest.py. Exits 0 when everything passed.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

preset=release
unit=yes
integration=yes
pytest_args=()
while [ $# -gt 0 ]; do
    n_taken=1
    case $1 in
        --unit) integration=no ;;
        --integration) unit=no ;;
        --long) export MM_TEST_LONG=1 ;;
        *) take_argument preset "$@" ;;
    esac
    shift "$n_taken"
done
case $preset in
    release | bundled | debug | asan | tsan) ;;
    *) die "--preset \"$preset\": expected release, bundled, debug, asan or tsan" ;;
esac
if [ $unit$integration = nono ]; then unit=yes integration=yes; fi

cd "$root"
begin=$SECONDS
results=()

# sanitizer_library NAME: of the compiler, to be loaded before the broker, which is built without.
sanitizer_library() {
    local file
    file=$(gcc -print-file-name="$1")
    [ "$file" != "$1" ] || die "gcc has no $1"
    readlink -f "$file"
}

# Runs the rest of the line where a sanitizer can live.
launcher=()
prepare_sanitizer() {
    case $preset in
        asan) export MM_TEST_PRELOAD=${MM_TEST_PRELOAD:-$(sanitizer_library libasan.so)} ;;
        tsan)
            MM_TEST_PRELOAD=${MM_TEST_PRELOAD:-"$(sanitizer_library libtsan.so) $root/build/tsan/lib/libtsan_threads.so"}
            export MM_TEST_PRELOAD
            # ThreadSanitizer of GCC 12 finds no room for its shadow when addresses are as random as newer kernels
            # make them. Not every container allows to switch that off, so it is done only where it must.
            if [ "$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 0)" -gt 28 ]; then
                launcher=(setarch "$(uname -m)" -R)
            fi
            ;;
    esac
}

# run NAME COMMAND...: notes how it ended.
run() {
    local name=$1 start=$SECONDS code=0
    shift
    "$@" || code=$?
    if [ $code -eq 0 ]; then
        results+=("$name passed in $((SECONDS - start)) s")
    else
        results+=("$name FAILED ($((SECONDS - start)) s)")
        failed=yes
    fi
}

needed=("${packages_build[@]}" "${packages_unit[@]}")
if [ $integration = yes ]; then needed+=("${packages_integration[@]}"); fi
if [ "$preset" = bundled ]; then needed+=("${packages_bundled[@]}"); fi
install_packages "${needed[@]}"
if [ "$preset" = bundled ]; then "$root/scripts/fetch-librdkafka.sh"; fi
targets=()
if [ $unit = no ]; then
    targets=("${targets_integration[@]}")
    if [ "$preset" = tsan ]; then targets+=(tsan_threads); fi
fi
build "$preset" "${targets[@]}"

failed=no
if [ $unit = yes ]; then
    say "unit tests"
    run "unit tests" ctest --preset "$preset"
fi
if [ $integration = yes ]; then
    prepare_venv venv test/integration/requirements.txt
    prepare_sanitizer
    say "integration tests: real Mosquitto, ${MM_TEST_KAFKA:-real Apache Kafka} (about twelve minutes)"
    export MM_TEST_PLUGIN=${MM_TEST_PLUGIN:-$root/build/$preset/lib/mosquitto_metamorphosis.so}
    export PYTHONDONTWRITEBYTECODE=1
    cd test/integration
    run "integration tests" "${launcher[@]}" "$root/build/venv/bin/python" -m pytest "${pytest_args[@]}"
fi

summary=$(printf '%s, ' "${results[@]}")
if [ $failed = yes ]; then
    printf '\nFAILED (preset %s, %d s): %s\n' "$preset" $((SECONDS - begin)) "${summary%, }"
    exit 1
fi
printf '\nAll good (preset %s, %d s): %s\n' "$preset" $((SECONDS - begin)) "${summary%, }"
