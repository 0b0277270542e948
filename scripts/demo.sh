#!/usr/bin/env bash
# Shows the plugin at work: a Kafka (librdkafka's mock cluster, inside the tool `metamorphosis`), a Mosquitto with the
# plugin, a few messages, and what a Kafka consumer sees of them. Installs what is missing, builds, and touches nothing
# but free ports of 127.0.0.1 and a folder of its own in the directory for temporary files.
#
#   scripts/demo.sh [--keep]
#
#   --keep       keep everything running at the end, until Ctrl-C, also without a terminal
#   -h, --help   this text
#
# With a terminal it shows new records as they arrive until Enter or Ctrl-C; without one it stops at the end.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

keep=no
[ $# -le 1 ] || die "too much: \"${*:2}\"; --help shows the options"
case ${1:-} in
    '') ;;
    --keep) keep=yes ;;
    *) other_argument "$1" ;;
esac

pids=()
work=
cleanup() {
    local i
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do # the last one first: it depends on those before
        kill "${pids[i]}" 2>/dev/null || true
        wait "${pids[i]}" 2>/dev/null || true
    done
    if [ -n "$work" ]; then rm -rf "$work"; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# wait_for WHAT COMMAND...: until the command succeeds.
wait_for() {
    local what=$1 i
    shift
    for ((i = 0; i < 200; i++)); do
        if "$@" 2>/dev/null; then return; fi
        sleep 0.05
    done
    tail -n 20 "$work"/*.log >&2 || true
    die "$what: not within 10 s"
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A port below those that the kernel gives to outgoing connections, on which nobody listens.
free_port() {
    local port
    for _ in {1..100}; do
        port=$((20000 + RANDOM % 12000))
        if ! listens $port; then
            echo $port
            return
        fi
    done
    die "no free port"
}

install_packages "${packages_build[@]}" "${packages_unit[@]}" "${packages_demo[@]}"
build release mosquitto_metamorphosis metamorphosis
tool=$root/build/release/bin/metamorphosis
mosquitto=$(mosquitto_binary)
work=$(mktemp -d "${TMPDIR:-/tmp}/metamorphosis-demo.XXXXXX")

say "starting Kafka: metamorphosis mock-kafka --topic mqtt:3"
"$tool" mock-kafka --topic mqtt:3 --write-address "$work/kafka" >"$work/kafka.log" 2>&1 &
pids+=($!)
wait_for "the address of Kafka" test -s "$work/kafka"
kafka=$(cat "$work/kafka")
note "it listens on $kafka"

mqtt_port=$(free_port)
health_port=$(free_port)
while [ "$health_port" = "$mqtt_port" ]; do health_port=$(free_port); done
{
    if [ "$(id -u)" = 0 ]; then echo "user root"; fi
    cat <<CONF
listener $mqtt_port 127.0.0.1
allow_anonymous true
plugin $root/build/release/lib/mosquitto_metamorphosis.so
plugin_opt_mqtt_topic #
plugin_opt_kafka_broker $kafka
plugin_opt_kafka_topic mqtt
plugin_opt_spool_dir $work/spool
plugin_opt_health_port $health_port
CONF
} >"$work/mosquitto.conf"
say "starting Mosquitto with the plugin; its mosquitto.conf:"
sed 's/^/    /' "$work/mosquitto.conf"
"$mosquitto" -c "$work/mosquitto.conf" >"$work/mosquitto.log" 2>&1 &
pids+=($!)
url=http://127.0.0.1:$health_port
wait_for "the broker" curl -fsS -o "$work/answer" "$url/livez"
wait_for "Kafka's connection" curl -fsS -o "$work/answer" "$url/healthz"
grep 'metamorphosis:' "$work/mosquitto.log" | sed 's/^[0-9]*: /    /'

publish() {
    local shown='' word
    for word in "$@"; do
        if [[ $word = *[\ \"\<\&]* ]]; then word=${word@Q}; fi
        shown+=" $word"
    done
    note "mosquitto_pub$shown"
    mosquitto_pub -h 127.0.0.1 -p "$mqtt_port" "$@"
}
say "publishing"
publish -t plant/1/temperature -q 1 -m 21.5
publish -t plant/1/temperature -q 1 -m 21.7
publish -t plant/2/temperature -q 0 -m 19.8
publish -t plant/2/alarm -q 2 -V mqttv5 -r -m '{"level": "high", "text": "door <open> & unlocked"}'
publish -t café/☕ -q 1 -m 'two, please'
publish -t plant/1/temperature -q 1 -n

drained() { curl -fsS "$url/metrics" | grep -qx 'metamorphosis_spool_messages 0'; }
wait_for "the delivery" drained

show='    partition %p, offset %o, key %k\n        headers   %h\n        time      %T ms\n        value     %s\n'
say "what a Kafka consumer sees (kcat -C -b $kafka -t mqtt -o beginning -e)"
note "The value is the Go program's JSON; Content is the payload in base64. The key is the MQTT topic, so that its"
note "messages are in one partition, in order. mm-id tells a repeated message from a new one."
kcat -q -C -b "$kafka" -t mqtt -o beginning -e -f "$show"

say "health and metrics ($url/metrics)"
for page in livez readyz healthz; do note "/$page: $(curl -sS "$url/$page")"; done
curl -fsS "$url/metrics" | grep -E '^metamorphosis_(messages_|spool_(messages|bytes)|kafka_up|ledger)' | sed 's/^/    /'

say "the spool on disk (metamorphosis spool stat $work/spool)"
note "Acknowledged messages are there until Kafka has them: they survive a kill -9 of the broker."
"$tool" spool stat "$work/spool" | sed 's/^/    /'

if [ $keep = no ] && ! { [ -t 0 ] && [ -t 1 ]; }; then
    say "no terminal: stopping what was started. scripts/demo.sh --keep leaves it running."
    exit 0
fi

trap 'exit 0' INT TERM
say "it keeps running. From another terminal:"
note "mosquitto_pub -h 127.0.0.1 -p $mqtt_port -t plant/3/temperature -m 20.1 -q 1"
note "curl $url/metrics"
note "kcat -C -b $kafka -t mqtt"
note "New records are shown here as they arrive."
kcat -q -u -C -b "$kafka" -t mqtt -o end -f "$show" 2>"$work/kcat.log" &
pids+=($!)
if [ -t 0 ]; then
    say "Enter or Ctrl-C stops everything."
    read -r _ || true
else
    say "Ctrl-C (or kill $$) stops everything."
    wait "${pids[0]}" || true
fi
say "stopping"
