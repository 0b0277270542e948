#!/usr/bin/env bash
# Runs the unit tests under valgrind, which alone sees that a value decides something, or goes to the system, that was
# never set. Leaks are left to the sanitizers: some tests end a process of theirs with all that it has.
#
#   scripts/valgrind.sh [options] [test...]     tests: of test/unit, as test_record; all of them if none is named, but
#                                               three that count allocations, take all descriptors, or set the clock,
#                                               which valgrind does in its own way
#
#   -h, --help      this text
#
# A quarter of an hour of a core and more. What valgrind says of a test goes to build/valgrind. Exits 1 when a test
# failed, or when valgrind found something.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tests=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            print_help
            exit 0
            ;;
        -*) die "unknown option \"$1\"; --help shows them" ;;
        *)
            [ -f "$root/test/unit/$1.c" ] || die "there is no test \"$1\" in test/unit"
            tests+=("$1")
            ;;
    esac
    shift
done
cd "$root"
if [ ${#tests[@]} -eq 0 ]; then
    for file in test/unit/test_*.c; do
        file=${file##*/}
        case $file in
            test_clock.c | test_http.c | test_message_path.c) ;;
            *) tests+=("${file%.c}") ;;
        esac
    done
fi

install_packages "${packages_build[@]}" "${packages_unit[@]}" "${packages_valgrind[@]}"
build release "${tests[@]}"
logs=$root/build/valgrind
mkdir -p "$logs"

say "unit tests under valgrind"
failed=0
for name in "${tests[@]}"; do
    begin=$SECONDS code=0
    # Fair: with its usual lock one thread that spins can keep all others from running.
    valgrind -q --fair-sched=yes --error-exitcode=99 --log-file="$logs/$name.valgrind" \
        "build/release/bin/$name" >"$logs/$name.log" 2>&1 || code=$?
    printf '%-24s %6d s   %s\n' "$name" $((SECONDS - begin)) \
        "$([ $code -eq 0 ] && echo good || echo "FAILED ($code): build/valgrind/$name.*")"
    [ $code -eq 0 ] || failed=1
done
exit $failed
