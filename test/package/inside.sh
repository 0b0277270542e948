#!/bin/bash
# The test of the package, run by scripts/package-test.sh in a clean Debian with a network of its own, of which all ports
# are free: installed, a message through, upgraded with a backlog on disk, removed and purged.
#
#   inside.sh OLD.deb NEW.deb
set -euo pipefail
old=$1 new=$2
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

start_broker() {
    rm -f /var/log/mosquitto/mosquitto.log
    # As the broker's unit does before it starts it.
    install -d -m 740 /var/log/mosquitto /run/mosquitto
    chown mosquitto: /var/log/mosquitto /run/mosquitto
    mosquitto -c /etc/mosquitto/mosquitto.conf >"$work/broker.log" 2>&1 &
    broker=$!
    wait_for "the broker serves" mosquitto_pub -p 1883 -q 0 -t \$probe -m x
}
stop_broker() {
    kill "$broker"
    wait "$broker" || fail "the broker ended with $?"
}

# --- installed, and nothing is changed by that ---

say "installing $(basename "$old")"
apt install "$old"
expect "a spool directory, for the broker alone" equal "$(stat -c '%U:%G %a' $spool)" "mosquitto:mosquitto 700"
expect "the conffile is one" contains "$conf" <(dpkg-query -W -f='${Conffiles}' metamorphosis)
expect "nothing in it counts" nothing_in '^[^#]' $conf
expect "the tool runs" metamorphosis version
expect "manual pages" test -s /usr/share/man/man1/metamorphosis.1.gz -a -s /usr/share/man/man7/mosquitto_metamorphosis.7.gz
expect "the plugin finds its libraries" nothing_in 'not found' <(ldd "$plugin")
start_broker
expect "the broker runs without the plugin" nothing_in metamorphosis: /var/log/mosquitto/mosquitto.log
expect "the broker has not loaded it" nothing_in mosquitto_metamorphosis "/proc/$broker/maps"
stop_broker

# --- switched on as its comments say ---

say "switching it on; messages while Kafka is away"
sed -i 's/^#\(plugin\)/\1/' $conf
configure 127.0.0.1:9
expect "the configuration is good" metamorphosis check-config /etc/mosquitto/mosquitto.conf
start_broker
wait_for "the plugin is there" metamorphosis health --path /livez
expect "the broker is the user mosquitto" equal "$(stat -c %U "/proc/$broker")" mosquitto
expect "messages are acknowledged" publish 1 500
stop_broker
expect "they are in the spool" equal "$(pending)" 500

# --- upgraded with a backlog ---

say "upgrading to $(basename "$new") with 500 messages on disk"
before=$(md5sum $conf)
apt install "$new"
expect "the new version" equal "$(installed)" "$(dpkg-deb -f "$new" Version)"
expect "the configuration is the operator's" equal "$(md5sum $conf)" "$before"
expect "the backlog is there" equal "$(pending)" 500
start_kafka
configure "$address"
start_broker
wait_for "the backlog is delivered" all_delivered
expect "more messages are acknowledged" publish 501 600
wait_for "all is delivered" all_delivered
wait_for "Kafka has each message once, in order" kafka_has 1 600
stop_broker

# --- removed while its line is there, and put back ---

say "removing it, with the spool empty, and purging it"
apt remove metamorphosis
expect "a warning of the line that is left" contains "mosquitto will not start again" "$work/apt.log"
expect "the configuration stays" test -e $conf
expect "the spool stays" test -e $spool/STATE
apt purge metamorphosis
expect "the empty spool is gone" test ! -e $spool
expect "the configuration is gone" test ! -e $conf
expect "nothing is left" equal "$(find / -xdev -name '*metamorphosis*' -not -path '/tmp/*' -not -path '/proc/*' \
    -not -path '/var/cache/*' -not -path '/source/*')" ""
start_broker
stop_broker

say "purging it with messages that Kafka does not have"
apt install "$new"
sed -i 's/^#\(plugin\)/\1/' $conf
configure 127.0.0.1:9
start_broker
expect "messages are acknowledged" publish 601 700
say "... while a broker has the spool"
apt purge metamorphosis
expect "it says so" contains "NOT removed: $spool" "$work/apt.log"
stop_broker
apt install "$new"
expect "no message is gone" equal "$(pending)" 100
say "... and without one"
apt purge metamorphosis
expect "it says what waits" contains "waiting    100 records" "$work/apt.log"
expect "it says that it is not removed" contains "NOT removed: $spool" "$work/apt.log"
apt install "$new"
expect "no message is gone" equal "$(pending)" 100
sed -i 's/^#\(plugin\)/\1/' $conf
configure "$address"
start_broker
wait_for "the messages are delivered in the end" all_delivered
wait_for "Kafka has each message once, in order" kafka_has 1 700
stop_broker

say "purging it when the spool has changed since the removal"
apt remove metamorphosis
touch $spool/of-somebody
apt purge metamorphosis
expect "it is not removed" contains "NOT removed: $spool" "$work/apt.log"
rm $spool/of-somebody
say "purging it in one go, with the spool empty"
apt install "$new"
apt purge metamorphosis
expect "the spool is gone" test ! -e $spool
stop_kafka
say "the package is good"
