#!/bin/bash
# The test of the package under a systemd that runs, by scripts/package-test.sh in a system of its own: what the package
# adds to the broker's unit counts, an upgrade restarts a broker that uses the plugin and no other, and what was
# acknowledged reaches Kafka through restarts and kills.
#
#   systemd.sh OLD.deb NEW.deb
set -euo pipefail
old=$1 new=$2
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

# property NAME: of the broker's unit, as systemd has it.
property() { systemctl show --value --property "$1" mosquitto.service; }
pid() { property MainPID; }
has_plugin() { grep -q mosquitto_metamorphosis.so "/proc/$(pid)/maps"; }
is_another() { [ "$(pid)" != "$1" ] && [ "$(pid)" != 0 ]; }
descriptors() { awk '/Max open files/ { print $4 }' "/proc/$(pid)/limits"; }
least() { echo $(($1 < $2 ? $1 : $2)); }
serves() { mosquitto_pub -p 1883 -q 0 -t \$probe -m x; }

say "installing $(basename "$old") beside a broker that systemd runs"
expect "the broker runs" systemctl is-active mosquitto
before=$(pid)
apt install "$old"
expect "it is the same one" equal "$(pid)" "$before"
expect "systemd knows what the package adds" contains mosquitto.service.d/metamorphosis.conf \
    <(property DropInPaths)
expect "it waits for the spool's file system" contains /var/lib/mosquitto/metamorphosis \
    <(property RequiresMountsFor)

say "switching it on; messages while Kafka is away"
sed -i 's/^#\(plugin\)/\1/' $conf
configure 127.0.0.1:9
expect "the broker starts with it" systemctl restart mosquitto
wait_for "the plugin is there" metamorphosis health --path /livez
expect "the broker is the user mosquitto" equal "$(stat -c %U "/proc/$(pid)")" mosquitto
expect "it may have many descriptors" equal "$(property LimitNOFILE)" 65536
expect "as many as a process can get here" equal "$(descriptors)" "$(least 65536 "$(ulimit -Hn)")"
expect "it has time to end" equal "$(property TimeoutStopUSec)" 30s
expect "messages are acknowledged" publish 1 500

say "upgrading to $(basename "$new"): systemd restarts the broker, with 500 messages on disk"
before=$(pid)
apt install "$new"
expect "another broker runs" is_another "$before"
expect "it is active" systemctl is-active mosquitto
expect "it has the plugin that is installed" has_plugin
expect "and none that was deleted" nothing_in 'mosquitto_metamorphosis.so (deleted)' "/proc/$(pid)/maps"
wait_for "the plugin is there" metamorphosis health --path /livez
expect "the backlog is there" equal "$(pending)" 500

say "killing it with SIGKILL: systemd starts it again"
before=$(pid)
kill -KILL "$before"
wait_for "another broker runs" is_another "$before"
wait_for "it serves" serves
start_kafka
configure "$address"
expect "the broker starts with a Kafka" systemctl restart mosquitto
wait_for "the backlog is delivered" all_delivered
expect "more messages are acknowledged" publish 501 600
wait_for "Kafka has each message once, in order" kafka_has 1 600

say "with the example that hardens the unit"
mkdir -p /etc/systemd/system/mosquitto.service.d
cp /usr/share/doc/metamorphosis/examples/mosquitto.service.d/hardening.conf /etc/systemd/system/mosquitto.service.d/
systemctl daemon-reload
expect "the broker starts hardened" systemctl restart mosquitto
expect "it is hardened" equal "$(property ProtectSystem)" strict
expect "more messages are acknowledged" publish 601 700
expect "it reloads" systemctl reload mosquitto
wait_for "Kafka has each message once, in order" kafka_has 1 700
expect "it stops in order" systemctl stop mosquitto
expect "nothing failed" equal "$(property Result)" success

say "installing it again while the broker is stopped: it stays so"
apt install --reinstall "$new"
expect "it is stopped" equal "$(property ActiveState)" inactive
expect "it starts" systemctl start mosquitto

say "removing it while the broker runs"
before=$(pid)
apt remove metamorphosis
expect "it goes on" equal "$(pid)" "$before"
expect "a warning of the line that is left" contains "mosquitto will not start again" "$work/apt.log"
expect "more messages are acknowledged" publish 701 800
wait_for "Kafka has each message once, in order" kafka_has 1 800
if systemctl restart mosquitto >"$work/restart.log" 2>&1; then
    fail "a broker without the plugin started, which would acknowledge what never reaches Kafka"
fi
systemctl stop mosquitto
apt purge metamorphosis
expect "systemd has forgotten what the package added" nothing_in metamorphosis <(property DropInPaths)
expect "the broker starts without it" systemctl restart mosquitto
stop_kafka
say "the package is good under systemd"
