#!/usr/bin/env bash
# Runs the integration tests against a Kafka that is none of Apache's, or against another version of Apache Kafka.
#
#   scripts/other-kafka.sh [options] [-- more arguments of pytest]
#
#   --kafka WHICH    kfake (default): another reading of the protocol, written in Go (test/kfake); only the tests that
#                    neither stop nor configure Kafka. Or a version of Apache Kafka, 3.9.1 for instance: all tests
#   -k EXPRESSION    only the tests that match, as pytest's -k
#   -h, --help       this text
#
# kfake needs Go 1.26. Exits 0 when everything passed.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

kafka=kfake
pytest_args=()
while [ $# -gt 0 ]; do
    take_argument kafka "$@"
    shift "$n_taken"
done

if [[ $kafka =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]]; then
    export MM_TEST_KAFKA_VERSION=$kafka
elif [ "$kafka" = kfake ]; then
    command -v go >/dev/null || die "kfake needs Go 1.26 or later, and there is no go in the PATH"
    mkdir -p "$root/build"
    (cd "$root/test/kfake" && go build -o "$root/build/kfake" .) || die "kfake cannot be built; it needs Go 1.26 or later"
    # It ends with its standard input, which is ours to close, however we end.
    coproc kfake { exec "$root/build/kfake"; }
    read -r -u "${kfake[0]}" _ port || die "kfake does not start"
    export MM_TEST_KAFKA=127.0.0.1:$port MM_TEST_KAFKA_ONLY=1
else
    die "--kafka \"$kafka\": expected kfake or a version, as 3.9.1"
fi
"$root/scripts/test.sh" --integration -- "${pytest_args[@]}"
