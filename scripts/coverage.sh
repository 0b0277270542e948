#!/usr/bin/env bash
# Runs the unit and torture tests in a build that counts, and prints how many branches of the log, of its records and of
# the workers were taken. What is not, and why, is in docs/coverage.md.
#
#   scripts/coverage.sh [options]
#
#   --missing       also each branch that was never taken, as FILE:LINE:COLUMN
#   --report        only print, of the last run
#   --least N       exit with 1 when it is less than N percent, of all files together; 0
#   -h, --help      this text
#
# Processes that a test kills do not count: only what the tests themselves, and children that end in order, have done.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# the log, records, workers.
modules=(mm_crc32c mm_dir mm_housekeeper mm_keeper mm_layout mm_record mm_recover mm_scan mm_segment mm_spool
    mm_spool_read mm_sender mm_window mm_worker mm_worker_lane mm_worker_report mm_worker_send mm_worker_state)

missing=()
run=yes
least=0
while [ $# -gt 0 ]; do
    case $1 in
        --missing) missing=(--missing) ;;
        --report) run=no ;;
        --least)
            [[ ${2:-} =~ ^[0-9]+$ ]] || die "--least needs a number; --help shows how"
            least=$2
            shift
            ;;
        *) other_argument "$1" ;;
    esac
    shift
done
cd "$root"
profiles=$root/build/coverage/profiles
merged=$root/build/coverage/merged.profdata

if [ $run = yes ]; then
    install_packages "${packages_build[@]}" "${packages_unit[@]}" "${packages_coverage[@]}"
    build coverage
    rm -rf "$profiles"
    say "unit and torture tests"
    export LLVM_PROFILE_FILE=$profiles/%m-%p.profraw
    ctest --preset coverage
    say "every fault of every life"
    MM_TEST_LONG=1 build/coverage/bin/starve
    llvm-profdata merge -sparse -o "$merged" "$profiles"/*.profraw
fi
[ -f "$merged" ] || die "there is no run to report of"

say "branches"
objects=(build/coverage/bin/spool_writer)
for program in build/coverage/bin/test_* build/coverage/bin/{damage,model,power,random_kill,starve,step_append}; do
    objects+=(-object "$program")
done
files=("${modules[@]/#/plugin/}")
files=("${files[@]/%/.c}")
llvm-cov export -instr-profile="$merged" "${objects[@]}" "${files[@]}" |
    python3 scripts/coverage.py "${missing[@]}" "${files[@]}" | tee build/coverage/report
awk -v least="$least" '$1 == "together" && $(NF - 1) < least { exit 1 }' build/coverage/report ||
    die "less than $least percent of the branches were taken"
