#!/usr/bin/env bash
# Builds the fuzz targets and runs them, one after the other, each as often as is said. They begin with the inputs in
# test/fuzz/corpus and with what was found before.
#
#   scripts/fuzz.sh [options] [target...]       targets: test/fuzz/fuzz_*.c; all of them if none is named
#
#   --runs N        of each target; 1000000. Ten million take from a minute to an hour of a core.
#   --corpus        afterwards, put a small set of inputs that reach the same code into test/fuzz/corpus
#   -h, --help      this text
#
# What is new goes into build/fuzz/test/corpus, the output into build/fuzz/logs. An input that a target fails with is
# kept in build/fuzz/findings: mend the cause, and put the input into test/fuzz/corpus/TARGET, where each run tries it.
#
# Runs at the lowest priority. Exits 1 when a target failed.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Of the inputs of a target that are committed: how many at most, and how long.
max_inputs=40
max_input_bytes=512

runs=1000000
keep=no
targets=()
while [ $# -gt 0 ]; do
    case $1 in
        --runs)
            [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || die "--runs needs a number; --help shows how"
            runs=$2
            shift
            ;;
        --corpus) keep=yes ;;
        -*) other_argument "$1" ;;
        *)
            [ -f "$root/test/fuzz/fuzz_$1.c" ] || die "there is no target \"$1\" in test/fuzz"
            targets+=("$1")
            ;;
    esac
    shift
done
cd "$root"
if [ ${#targets[@]} -eq 0 ]; then
    for file in test/fuzz/fuzz_*.c; do
        file=${file##*/fuzz_}
        targets+=("${file%.c}")
    done
fi

install_packages "${packages_build[@]}" "${packages_unit[@]}" "${packages_fuzz[@]}"
build fuzz "${targets[@]/#/fuzz_}"

findings=$root/build/fuzz/findings
logs=$root/build/fuzz/logs
mkdir -p "$findings" "$logs"

# number NAME LOG: one of the figures that libFuzzer ends with.
number() {
    sed -n "s/^stat::$1: *//p" "$2"
}

# fuzz TARGET: says how it went.
fuzz() {
    local name=$1 log=$logs/$1.log begin=$SECONDS code=0
    local found=$root/build/fuzz/test/corpus/$1 seeds=$root/test/fuzz/corpus/$1
    local words=()
    if [ -f "test/fuzz/fuzz_$name.dict" ]; then words=("-dict=test/fuzz/fuzz_$name.dict"); fi
    mkdir -p "$found"
    nice -n 19 "build/fuzz/bin/fuzz_$name" "${words[@]}" -runs="$runs" -timeout=10 -print_final_stats=1 \
        -artifact_prefix="$findings/$name-" "$found" "$seeds" >"$log" 2>&1 || code=$?
    printf '%-16s %12s executions %6d s   %s\n' "$name" "$(number number_of_executed_units "$log")" \
        $((SECONDS - begin)) "$([ $code -eq 0 ] && echo good || echo "FAILED: ${log#"$root/"}")"
    return $code
}

# keep_corpus TARGET: the shortest inputs first, so that a few short ones reach what many long ones did.
keep_corpus() {
    local name=$1 merged found=$root/build/fuzz/test/corpus/$1 seeds=$root/test/fuzz/corpus/$1
    merged=$(mktemp -d)
    mkdir -p "$merged/in" "$merged/out"
    find "$found" "$seeds" -type f -size "-$((max_input_bytes + 1))c" -exec cp -t "$merged/in" {} +
    nice -n 19 "build/fuzz/bin/fuzz_$name" -merge=1 "$merged/out" "$merged/in" >"$logs/$name-merge.log" 2>&1
    # Those with names of our own stay: they were put there by hand.
    find "$seeds" -type f -regextype egrep -regex '.*/[0-9a-f]{40}' -delete
    # Of the many, evenly by length.
    find "$merged/out" -type f -printf '%s %p\n' | sort -n |
        awk -v max=$max_inputs '{file[NR] = $2} END {
            n = NR < max ? NR : max
            for (i = 0; i < n; i++) print file[1 + int(i * NR / n)]
        }' | xargs -r cp -t "$seeds"
    rm -rf "$merged"
}

failed=no
for name in "${targets[@]}"; do
    fuzz "$name" || failed=yes
    if [ $keep = yes ]; then keep_corpus "$name"; fi
done
[ $failed = no ]
