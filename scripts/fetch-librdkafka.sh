#!/usr/bin/env bash
# Fetches the sources of the librdkafka that the preset "bundled" links into the plugin, with npm, and checks that they
# are the ones that cmake/librdkafka.lock names. Does nothing when they are there.
#
#   scripts/fetch-librdkafka.sh [-h|--help]
#
# The archive lies in build/downloads. Where nothing can be fetched, put it there, or give it to cmake:
# -DMM_RDKAFKA_ARCHIVE=file.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
    '') ;;
    *) other_argument "$1" ;;
esac

package='' version='' sha256='' librdkafka=''
# shellcheck source-path=SCRIPTDIR source=../cmake/librdkafka.lock
. "$root/cmake/librdkafka.lock"
archive=$root/build/downloads/librdkafka-$librdkafka.tgz

# is_it FILE: is it the archive that is wanted?
is_it() { [ -f "$1" ] && printf '%s  %s\n' "$sha256" "$1" | sha256sum --check --status; }

if is_it "$archive"; then exit 0; fi
command -v npm >/dev/null || install_packages npm
say "fetching librdkafka $librdkafka (npm: $package@$version)"
mkdir -p "$(dirname "$archive")"
work=$(mktemp -d "$archive.XXXXXX")
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm pack --silent --ignore-scripts "$package@$version" >/dev/null)
fetched=("$work"/*.tgz)
is_it "${fetched[0]}" || die "what npm gave for $package@$version is not what cmake/librdkafka.lock names (sha256)"
mv "${fetched[0]}" "$archive"
