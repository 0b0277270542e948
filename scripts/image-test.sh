#!/usr/bin/env bash
# Installs what is missing, builds the container image, and tests it: starts it with nothing but its environment, beside a
# remote broker with TLS, with a real Apache Kafka. Needs root; no docker engine: docker/build.sh --stand-in.
#
#   scripts/image-test.sh [options] [-- more arguments of pytest]
#
#   --suite NAME     of Debian: trixie (default), forky, sid
#   -k EXPRESSION    only the tests that match, as pytest's -k
#   -h, --help       this text
#
# The base of the image is made once and kept in build/image.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

suite=trixie
pytest_args=()
while [ $# -gt 0 ]; do
    take_argument suite "$@"
    shift "$n_taken"
done

install_packages "${packages_build[@]}" "${packages_integration[@]}" "${packages_image[@]}"
begin=$SECONDS
"$root/docker/build.sh" --stand-in --suite "$suite" --rootfs "$root/build/image/root-$suite"
note "built within $((SECONDS - begin)) s"
cd "$root"
prepare_venv venv test/integration/requirements.txt
say "testing the image"
export PYTHONDONTWRITEBYTECODE=1 MM_TEST_IMAGE=$root/build/image/root-$suite
cd test/integration
"$root/build/venv/bin/python" -m pytest image/test_image.py "${pytest_args[@]}"
