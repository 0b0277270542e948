#!/usr/bin/env bash
# Installs what is missing, and checks form: clang-format, clang-tidy, shellcheck, and that the option references are
# those that the program prints.
#
#   scripts/lint.sh [-h|--help]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
    '') ;;
    *) other_argument "$1" ;;
esac

install_packages "${packages_build[@]}" "${packages_unit[@]}" "${packages_lint[@]}"
build release
cd "$root"

mapfile -t sources < <(git ls-files '*.c')
mapfile -t headers < <(git ls-files '*.h')
mapfile -t shell < <(git ls-files '*.sh' .ci/run bench/run bench/compare | xargs grep -lE '^#!.*bash|shellcheck shell=bash')
shell+=(packaging/debian/postinst packaging/debian/prerm packaging/debian/postrm)

say "clang-format"
clang-format --dry-run -Werror "${sources[@]}" "${headers[@]}"
say "shellcheck"
shellcheck -x "${shell[@]}"
say "clang-tidy"
# The fuzz targets and the helpers of one preset are not in this build; their flags are the same.
# shellcheck disable=SC2016 # the inner shell expands these
printf '%s\0' "${sources[@]}" | xargs -0 -n 4 -P "$(nproc)" sh -c '
    for file; do
        clang-tidy --quiet "$file" -- -std=c11 -D_GNU_SOURCE -DMM_TEST_DATA_DIR="\"test/data\"" -DSTARVED_TOOL="\"tool\"" \
            -Iinclude -Ibuild/release/include -I/usr/include/cjson || exit 255
    done' sh 2>/dev/null
say "docs/options.md"
build/release/bin/metamorphosis options | diff docs/options.md - ||
    die "docs/options.md is stale: build/release/bin/metamorphosis options > docs/options.md"
say "docs/man/mosquitto_metamorphosis.7"
build/release/bin/metamorphosis options --man | diff docs/man/mosquitto_metamorphosis.7 - ||
    die "it is stale: build/release/bin/metamorphosis options --man > docs/man/mosquitto_metamorphosis.7"
say "form is good"
