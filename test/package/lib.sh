# shellcheck shell=bash
# What the tests of the package share. To be sourced, with $new: the package that is tested.
# shellcheck disable=SC2034,SC2154 # what is here is for those who source it, and theirs is new
readonly conf=/etc/mosquitto/conf.d/metamorphosis.conf spool=/var/lib/mosquitto/metamorphosis
readonly work=/tmp/package-test
plugin=/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || gcc -print-multiarch 2>/dev/null ||
    dpkg-deb -c "$new" | sed -n 's|.* \./usr/lib/\([^/]*\)/mosquitto_metamorphosis.so|\1|p')/mosquitto_metamorphosis.so
mkdir -p $work

say() { printf '    %s\n' "$*"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    for file in "$work"/*.log /var/log/mosquitto/mosquitto.log; do
        if [ -s "$file" ]; then printf -- '--- %s ---\n%s\n' "$file" "$(tail -n 40 "$file")" >&2; fi
    done
    exit 1
}
# expect WHAT COMMAND...: which has to succeed.
expect() {
    local what=$1
    shift
    "$@" >"$work/expect.log" 2>&1 || fail "expected: $what ($*)"
}
# wait_for WHAT COMMAND...: until it succeeds, for 20 s.
wait_for() {
    local what=$1 n
    shift
    for ((n = 0; n < 200; n++)); do
        if "$@" >"$work/expect.log" 2>&1; then return; fi
        sleep 0.1
    done
    fail "waited 20 s for: $what ($*)"
}
contains() { grep -qF -- "$1" "$2"; }
nothing_in() { ! grep -q "$@"; }
equal() { [ "$1" = "$2" ]; }

# apt ARGUMENTS...: without the network; what it needs was fetched before. Its output is in $work/apt.log.
apt() {
    apt-get -q -y -o Dpkg::Use-Pty=0 "$@" >"$work/apt.log" 2>&1 || fail "apt-get $*"
}
installed() { dpkg-query -W -f='${Version}' metamorphosis; }

# --- Kafka, messages ---

start_kafka() {
    rm -f "$work/kafka"
    metamorphosis mock-kafka --topic mqtt:1 --write-address "$work/kafka" >"$work/kafka.log" 2>&1 &
    kafka=$!
    wait_for "the mock of Kafka serves" test -s "$work/kafka"
    address=$(cat "$work/kafka")
}
stop_kafka() {
    kill "$kafka"
    wait "$kafka" || true
}
# publish FROM TO: a QoS 1 message for each number; returns when the broker has acknowledged them.
publish() {
    seq "$1" "$2" | sed 's/^/message /' | mosquitto_pub -p 1883 -q 1 -t plant/1/count -l
}
pending() { metamorphosis spool stat --json $spool | grep -o '"pending":[0-9]*' | head -n 1 | cut -d : -f 2; }
all_delivered() { equal "$(pending)" 0; }
# What Kafka has, in its order, by the key, one payload a line.
consumed() {
    kcat -C -b "$address" -t mqtt -o beginning -e -q 2>/dev/null |
        sed -n 's/.*"Content":"\([^"]*\)".*/\1/p' | while read -r text; do
        printf '%s' "$text" | base64 -d
        echo
    done
}
kafka_has() { equal "$(consumed)" "$(seq "$1" "$2" | sed 's/^/message /')"; }

configure() { sed -i "s|^#*plugin_opt_kafka_broker .*|plugin_opt_kafka_broker $1|" $conf; }
