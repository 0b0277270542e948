#!/bin/bash
# The entry point of the image (docs/container.md). Three ways, told by what is there:
#
#   a mounted /mosquitto/config/mosquitto.conf   the broker runs with it, as in the images of Eclipse Mosquitto
#   MQTT_BROKER                                  the Go program's place: a bridge to that broker, and the plugin
#   neither                                      a broker in its own right, with the plugin
#
# For the last two a mosquitto.conf is written from the environment. Only what the broker itself needs goes into it, each
# value checked before: a line that somebody slips into a value is an error, never a line of the file. The options of the
# plugin stay in the environment, where it reads and checks them.
#
#   entrypoint.sh [mosquitto -c FILE]   the broker; without arguments or with the image's own, as above
#   entrypoint.sh health [ARGUMENTS]    asks the running broker how it is: the image's HEALTHCHECK
#   entrypoint.sh COMMAND...            any other command
#
# MM_ROOT is the directory that /mosquitto lies in, and MM_PLUGIN the plugin's file; both are for tests alone.
set -euo pipefail
export LC_ALL=C

readonly base=${MM_ROOT:-}/mosquitto
readonly config=$base/config/mosquitto.conf
readonly data=$base/data
readonly generated=$data/mosquitto.conf
readonly plugin=${MM_PLUGIN:-/usr/lib/mosquitto_metamorphosis.so}
readonly uid=1883

# What this script reads itself. Where it writes the configuration the plugin does not see these: they have their meaning
# in it.
readonly own=(MQTT_BROKER MQTT_PORT MQTT_TLS MQTT_TOPIC MQTT_CLIENT_ID MQTT_USERNAME MQTT_PASSWORD MQTT_PASSWORD_FILE
    ROOT_CA MQTT_CLIENT_CERT MQTT_CLIENT_KEY LISTENER_PORT ALLOW_ANONYMOUS PASSWORD_FILE)
# Settings of the Go program that the plugin takes and names as having no meaning.
readonly gone=(KAFKA_BATCH_SIZE KAFKA_MAX_BATCH_SIZE KAFKA_INTERVAL)

note() { printf 'metamorphosis: %s\n' "$*" >&2; }

n_mistakes=0
# mistake NAME VALUE EXPECTED: all of them are told before the end.
mistake() {
    local shown=${2//[[:cntrl:]]/?}
    if [ ${#shown} -gt 64 ]; then shown=${shown:0:64}...; fi
    printf 'metamorphosis: error: %s: "%s" is not valid: expected %s\n' "$1" "$shown" "$3" >&2
    n_mistakes=$((n_mistakes + 1))
}
missing() {
    printf 'metamorphosis: error: %s is not set: expected %s\n' "$1" "$2" >&2
    n_mistakes=$((n_mistakes + 1))
}
# For what must not be shown.
secret_mistake() {
    printf 'metamorphosis: error: %s is not valid: expected %s\n' "$1" "$2" >&2
    n_mistakes=$((n_mistakes + 1))
}
end_with_mistakes() {
    if [ "$n_mistakes" -gt 0 ]; then exit 1; fi
}

# --- the .env file: of the working directory, as for the Go program; it never overrides the environment ---------------

declare -A env_values=() # of the file, for $NAME in it
env_file=

env_mistake() {
    printf 'metamorphosis: error: %s:%s: %s\n' "$env_file" "$1" "$2" >&2
    n_mistakes=$((n_mistakes + 1))
}

# expand LINE QUOTED TEXT: $NAME and ${NAME}, of the lines above; a backslash keeps a $, and between quotes it makes an
# end of line of n. Result in REPLY.
expand() {
    local line=$1 quoted=$2 rest=$3 name
    # shellcheck disable=SC2016 # a pattern
    local next='^([^\$]*)(\\(.)|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)|[\$])(.*)$'
    REPLY=
    while [[ $rest =~ $next ]]; do
        REPLY+=${BASH_REMATCH[1]}
        name=${BASH_REMATCH[4]}${BASH_REMATCH[5]}
        if [ -n "${BASH_REMATCH[3]}" ]; then
            case $quoted${BASH_REMATCH[3]} in
                yesn) REPLY+=$'\n' ;;
                yesr) REPLY+=$'\r' ;;
                yes* | no\$) REPLY+=${BASH_REMATCH[3]} ;;
                *) REPLY+=${BASH_REMATCH[2]} ;;
            esac
        elif [ -z "$name" ]; then
            REPLY+=${BASH_REMATCH[2]}
        elif [ -n "${env_values[$name]+set}" ]; then
            REPLY+=${env_values[$name]}
        else
            env_mistake "$line" "\$$name stands in no line above; a value with a \$ belongs between ' and '"
        fi
        rest=${BASH_REMATCH[6]}
    done
    REPLY+=$rest
}

# read_value LINE TEXT: what stands behind the = of a line. Result in REPLY.
read_value() {
    local line=$1 text=$2
    local single="^'([^']*)'[[:blank:]]*(#.*)?\$" double='^"(([^"\\]|\\.)*)"[[:blank:]]*(#.*)?$'
    if [[ $text =~ $single ]]; then
        REPLY=${BASH_REMATCH[1]}
    elif [[ $text =~ $double ]]; then
        expand "$line" yes "${BASH_REMATCH[1]}"
    elif [[ $text = [\"\']* ]]; then
        env_mistake "$line" "the quote at the begin of the value has none at its end"
    else
        if [[ $text =~ ^(|.*[[:blank:]])# ]]; then
            text=${text%%[[:blank:]]#*}
            if [[ $text = '#'* ]]; then text=; fi
        fi
        text=${text%"${text##*[![:blank:]]}"}
        if [[ $text = *'#'* ]]; then
            env_mistake "$line" "a value with a # belongs between quotes"
        fi
        expand "$line" no "$text"
    fi
}

# Which variables mean something: the options of the plugin, by its own list, and ours.
known_variables() {
    # shellcheck disable=SC2016 # they are Markdown's
    metamorphosis options | sed -n 's/^| `[a-z0-9_]*` | `\([A-Z0-9_]*\)` |.*/\1/p'
    printf '%s\n' "${own[@]}" "${gone[@]}"
}

load_env_file() {
    env_file=.env
    if [ ! -e "$env_file" ]; then return; fi
    if [ ! -f "$env_file" ] || [ ! -r "$env_file" ]; then
        mistake .env "$PWD/.env" "a file that uid $(id -u) can read"
        return
    fi
    local line text name known unknown=() n=0
    local form='^(export[[:blank:]]+)?([A-Za-z_][A-Za-z0-9_.]*)[[:blank:]]*[=:][[:blank:]]*(.*)$'
    known=$'\n'$(known_variables)$'\n'
    while IFS= read -r line || [ -n "$line" ]; do
        n=$((n + 1))
        text=${line%$'\r'}
        text=${text#"${text%%[![:blank:]]*}"}
        if [ -z "$text" ] || [[ $text = '#'* ]]; then continue; fi
        if [[ ! $text =~ $form ]]; then
            env_mistake $n "expected NAME=value"
            continue
        fi
        name=${BASH_REMATCH[2]}
        REPLY=
        read_value $n "${BASH_REMATCH[3]}"
        env_values[$name]=$REPLY
        if [[ $known != *$'\n'"$name"$'\n'* ]]; then
            unknown+=("$name")
        elif [ -z "${!name:-}" ]; then
            export "$name=$REPLY"
        fi
    done <"$env_file"
    if [ ${#unknown[@]} -gt 0 ]; then note ".env: no meaning here has ${unknown[*]}"; fi
}

# --- checks ------------------------------------------------------------------------------------------------------------

# one_line NAME: printable, and no blank at an end, which the broker would cut off.
one_line() {
    local value=${!1}
    [[ $value != *[[:cntrl:]]* && $value != [[:blank:]]* && $value != *[[:blank:]] ]] &&
        printf '%s' "$value" | iconv -f UTF-8 -t UTF-8 >/dev/null 2>&1
}

# Can the user that the broker will be read the file?
broker_uid() { if [ "$(id -u)" = 0 ]; then echo $uid; else id -u; fi; }
can_read() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid $uid --regid $uid --clear-groups test -f "$1" -a -r "$1"
    else
        [ -f "$1" ] && [ -r "$1" ]
    fi
}

# pem_file NAME PATTERN WHAT: a file that holds such a thing.
pem_file() {
    local file=${!1}
    if ! one_line "$1" || [[ $file != /* ]]; then
        mistake "$1" "$file" "the absolute path of a PEM file"
    elif ! can_read "$file"; then
        mistake "$1" "$file" "a file that uid $(broker_uid) can read"
    elif ! grep -qE -e "-----BEGIN $2-----" "$file" || grep -q '^Proc-Type: 4,ENCRYPTED' "$file"; then
        mistake "$1" "$file" "a PEM file with $3"
    fi
}

read_boolean() { # NAME DEFAULT; result in REPLY
    local value=${!1:-$2}
    REPLY=${value,,}
    if [ "$REPLY" != true ] && [ "$REPLY" != false ]; then mistake "$1" "$value" "true or false"; fi
}

read_port() { # NAME DEFAULT; result in REPLY
    REPLY=${!1:-$2}
    if [[ ! $REPLY =~ ^[0-9]{1,5}$ ]] || [ "$((10#$REPLY))" -lt 1 ] || [ "$((10#$REPLY))" -gt 65535 ]; then
        mistake "$1" "$REPLY" "a whole number from 1 to 65535"
    fi
}

# is_filter TEXT: MQTT 5.0 section 4.7, in one line.
is_filter() {
    local level rest=$1/
    [ -n "$1" ] && [ ${#1} -le 65535 ] && [[ $1 != *[[:cntrl:]]* ]] || return 1
    while [ -n "$rest" ]; do
        level=${rest%%/*}
        rest=${rest#*/}
        case $level in
            '#') [ -z "$rest" ] || return 1 ;;
            +) ;;
            *[+#]*) return 1 ;;
        esac
    done
}

# --- the configuration in the Go program's place -------------------------------------------------------------------------

subscriptions=()
carried=()

# Each filter of MQTT_TOPIC as the bridge subscribes to it, and as the plugin matches it. A line of mosquitto.conf has no
# way to say a blank in a topic: there the bridge asks for any level, and the plugin picks out the one.
read_topics() {
    local rest filter group asked levels i expected='MQTT topic filters, separated by , or ;'
    rest=${MQTT_TOPIC//;/,},
    while [ -n "$rest" ]; do
        filter=${rest%%,*}
        rest=${rest#*,}
        filter=${filter#"${filter%%[![:blank:]]*}"}
        filter=${filter%"${filter##*[![:blank:]]}"}
        group=
        if [[ $filter/ = \$share/* ]]; then
            if [[ ! $filter =~ ^(\$share/[^/+#[:space:]]+/)(.+)$ ]]; then
                mistake MQTT_TOPIC "$MQTT_TOPIC" "\$share/<group>/<filter>, the group without blank, + and #"
                return
            fi
            group=${BASH_REMATCH[1]}
            filter=${BASH_REMATCH[2]}
        fi
        if ! is_filter "$filter"; then
            mistake MQTT_TOPIC "$MQTT_TOPIC" "$expected"
            return
        fi
        asked=
        IFS=/ read -r -a levels <<<"$filter/"
        for i in "${!levels[@]}"; do
            if [[ ${levels[i]} = *' '* ]]; then
                if [ "$i" = 0 ] && [[ $filter = \$* ]]; then
                    mistake MQTT_TOPIC "$MQTT_TOPIC" "no blank in a first level that begins with \$: no bridge can ask for it"
                    return
                fi
                asked+=+/
            else
                asked+=${levels[i]}/
            fi
        done
        subscriptions+=("$group${asked%/}")
        carried+=("$filter")
    done
}

# The name is the session's on the other broker. It has to stay the same from start to start, whatever the container is
# called then: the first default is kept beside the spool.
read_client_id() {
    local file=$data/mqtt-client-id host=${HOSTNAME:-}
    host=${host:-$(cat /proc/sys/kernel/hostname)}
    host=${host%%.*}
    if [ -n "${MQTT_CLIENT_ID:-}" ]; then
        client_id=${MQTT_CLIENT_ID//%h/$host}
    elif [ -s "$file" ]; then
        client_id=$(cat "$file")
        if [ "$client_id" != "$host" ]; then
            note "MQTT_CLIENT_ID is not set: \"${client_id//[[:cntrl:]]/?}\", from $file, where an earlier start kept it"
        fi
    else
        client_id=$host
        printf '%s\n' "$client_id" >"$file.new"
        mv "$file.new" "$file"
        note "MQTT_CLIENT_ID is not set: \"$client_id\", the name of this host, kept in $file"
    fi
    if ! one_line client_id || [ ${#client_id} -gt 65535 ]; then
        mistake MQTT_CLIENT_ID "$client_id" "one line of printable text, with %h for the name of this host"
    fi
}

read_tls() {
    local name unused=()
    read_boolean MQTT_TLS true
    tls=$REPLY
    if [ "$tls" = false ]; then
        for name in ROOT_CA MQTT_CLIENT_CERT MQTT_CLIENT_KEY; do
            if [ -n "${!name:-}" ]; then unused+=("$name"); fi
        done
        if [ ${#unused[@]} -gt 0 ]; then note "without MQTT_TLS no meaning has ${unused[*]}"; fi
        return
    fi
    if [ -n "${ROOT_CA:-}" ]; then
        pem_file ROOT_CA '(TRUSTED )?CERTIFICATE' "at least one certificate"
    else
        note "ROOT_CA is not set: the authorities of the image (ca-certificates) are trusted"
    fi
    if [ -n "${MQTT_CLIENT_CERT:-}" ]; then
        pem_file MQTT_CLIENT_CERT '(TRUSTED )?CERTIFICATE' "a certificate"
        if [ -z "${MQTT_CLIENT_KEY:-}" ]; then missing MQTT_CLIENT_KEY "the key of MQTT_CLIENT_CERT"; fi
    fi
    if [ -n "${MQTT_CLIENT_KEY:-}" ]; then
        pem_file MQTT_CLIENT_KEY '((RSA|EC|DSA) )?PRIVATE KEY' "a private key that is not encrypted"
        if [ -z "${MQTT_CLIENT_CERT:-}" ]; then missing MQTT_CLIENT_CERT "the certificate of MQTT_CLIENT_KEY"; fi
    fi
}

read_login() {
    password=
    if [ -n "${MQTT_USERNAME:-}" ] && ! one_line MQTT_USERNAME; then
        mistake MQTT_USERNAME "$MQTT_USERNAME" "one line of printable text"
    fi
    if [ -n "${MQTT_PASSWORD:-}" ] && [ -n "${MQTT_PASSWORD_FILE:-}" ]; then
        secret_mistake MQTT_PASSWORD "not to be set beside MQTT_PASSWORD_FILE"
    elif [ -n "${MQTT_PASSWORD_FILE:-}" ]; then
        if [ -f "$MQTT_PASSWORD_FILE" ] && [ -r "$MQTT_PASSWORD_FILE" ]; then
            password=$(cat "$MQTT_PASSWORD_FILE") # without the end of its line
        else
            mistake MQTT_PASSWORD_FILE "$MQTT_PASSWORD_FILE" "a file that uid $(id -u) can read"
        fi
    else
        password=${MQTT_PASSWORD:-}
    fi
    if [ -n "$password" ]; then
        if ! one_line password; then
            secret_mistake "${MQTT_PASSWORD_FILE:+the content of MQTT_PASSWORD_FILE}${MQTT_PASSWORD:+MQTT_PASSWORD}" \
                "one line of printable text without blanks at its ends"
        fi
        if [ -z "${MQTT_USERNAME:-}" ]; then missing MQTT_USERNAME "a name to go with the password"; fi
    fi
}

read_remote() {
    local host=${MQTT_BROKER#\[}
    host=${host%\]}
    if [[ ! $host =~ ^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)$ ]]; then
        local expected="the name or the address of one host; its port belongs into MQTT_PORT"
        # Somebody may have put a URL there, with a password in it.
        if [[ $host = *@* ]]; then secret_mistake MQTT_BROKER "$expected"; else mistake MQTT_BROKER "$MQTT_BROKER" "$expected"; fi
    fi
    read_port MQTT_PORT 8883
    address=$host:$REPLY
}

# The broker's own log: what LOG_LEVEL lets through of the plugin's lines has to pass there, too.
log_types() {
    local level=${LOG_LEVEL:-info} type
    local types=(error warning notice information)
    case ${level,,} in
        trace | debug) types=(all) ;;
        warn) types=(error warning) ;;
        error | fatal) types=(error) ;;
    esac
    for type in "${types[@]}"; do echo "log_type $type"; done
}

# check_kafka NAME...: these have to be set, unless a config_file may have them.
check_kafka() {
    if [ -n "${CONFIG_FILE:-}" ]; then return; fi
    local name
    for name; do
        if [ -z "${!name:-}" ]; then missing "$name" "where messages go to"; fi
    done
}

# Where the plugin finds no room, the connection is closed, and with it goes what the other broker has not read yet of the
# acknowledgements: those messages come again. If all that a connection holds on its way is more than the spool takes,
# the same ones come for ever. What is no size at all the plugin tells.
check_spool() {
    local value=${SPOOL_MAX_BYTES:-} bytes
    if [[ ! $value =~ ^0*([0-9]{1,13})([kKmMgG]?)$ ]]; then return; fi
    bytes=$((10#${BASH_REMATCH[1]}))
    case ${BASH_REMATCH[2],} in
        k) bytes=$((bytes << 10)) ;;
        m) bytes=$((bytes << 20)) ;;
        g) bytes=$((bytes << 30)) ;;
    esac
    if [ "$bytes" -lt $((16 << 20)) ]; then
        mistake SPOOL_MAX_BYTES "$value" "at least 16M behind another broker, more than a connection to it holds"
    fi
}

write_bridge() {
    local topic
    check_kafka KAFKA_BROKER KAFKA_TOPIC
    check_spool
    read_remote
    if [ -n "${MQTT_TOPIC:-}" ]; then read_topics; else missing MQTT_TOPIC "MQTT topic filters, separated by , or ;"; fi
    read_tls
    read_login
    read_client_id
    end_with_mistakes
    {
        # The other broker keeps the session, and every message until this one has acknowledged it: which it does when
        # the plugin has stored it. So there is nothing of the bridge to be kept here. (No per_listener_settings: with it
        # the plugin would not see what comes over a bridge.)
        echo "persistence false"
        # For people with a shell in the container: nobody else can connect, not even to the loopback address.
        echo "listener 0 $data/mosquitto.sock"
        echo "allow_anonymous false"
        # Mosquitto 2.1 would end the connection at a larger one, again and again.
        echo "max_packet_size 268435460"
        echo "log_dest stdout"
        echo "log_timestamp_format %Y-%m-%dT%H:%M:%S%z"
        log_types
        echo "connection metamorphosis"
        echo "address $address"
        echo "remote_clientid $client_id"
        echo "cleansession false"
        # As any client: no bit of Mosquitto's own in the CONNECT, nothing published over there.
        echo "bridge_protocol_version mqttv311"
        echo "try_private false"
        echo "notifications false"
        echo "bridge_attempt_unsubscribe false"
        echo "keepalive_interval 30"
        echo "restart_timeout 1 10"
        if [ -n "${MQTT_USERNAME:-}" ]; then echo "remote_username $MQTT_USERNAME"; fi
        if [ -n "$password" ]; then printf 'remote_password %s\n' "$password"; fi
        if [ "$tls" = true ]; then
            if [ -n "${ROOT_CA:-}" ]; then echo "bridge_cafile $ROOT_CA"; else echo "bridge_capath /etc/ssl/certs"; fi
            if [ -n "${MQTT_CLIENT_CERT:-}" ]; then echo "bridge_certfile $MQTT_CLIENT_CERT"; fi
            if [ -n "${MQTT_CLIENT_KEY:-}" ]; then echo "bridge_keyfile $MQTT_CLIENT_KEY"; fi
        fi
        for topic in "${subscriptions[@]}"; do printf 'topic %s in 1\n' "$topic"; done
        echo "plugin $plugin"
        printf 'plugin_opt_mqtt_topic %s\n' "$(IFS=, && printf '%s' "${carried[*]}")"
    } | save
    rm -f "$data/mosquitto.sock"
    export KAFKA_TEST_MESSAGE=${KAFKA_TEST_MESSAGE:-true}
    note "in the Go program's place: ${subscriptions[*]} of $address, as \"$client_id\""
    local name
    for name in "${gone[@]}"; do
        if [ -n "${!name:-}" ] && [ -z "${JSON_FIELD_NAMES:-}" ]; then
            note "$name is a setting of the Go program's later releases, which write {\"topic\":...,\"content\":...}:" \
                "JSON_FIELD_NAMES=topic,content does so here"
            break
        fi
    done
}

# --- the configuration of a broker in its own right ------------------------------------------------------------------------

write_broker() {
    read_boolean ALLOW_ANONYMOUS false
    local anonymous=$REPLY
    read_port LISTENER_PORT 1883
    local port=$REPLY
    check_kafka KAFKA_BROKER
    if [ -n "${PASSWORD_FILE:-}" ]; then
        if ! one_line PASSWORD_FILE || [[ $PASSWORD_FILE != /* ]] || ! can_read "$PASSWORD_FILE"; then
            mistake PASSWORD_FILE "$PASSWORD_FILE" "the absolute path of a file of mosquitto_passwd that uid $(broker_uid) can read"
        fi
    elif [ "$anonymous" = false ]; then
        missing PASSWORD_FILE "a file of mosquitto_passwd, or instead of it ALLOW_ANONYMOUS=true, MQTT_BROKER or a mounted \
$config; else nobody could connect"
    fi
    end_with_mistakes
    {
        echo "listener $port"
        echo "allow_anonymous $anonymous"
        # Mosquitto 2.1 follows no symbolic link here, and the files of a volume in Kubernetes are some.
        if [ -n "${PASSWORD_FILE:-}" ]; then echo "password_file $(readlink -f "$PASSWORD_FILE")"; fi
        echo "persistence true"
        echo "persistence_location $data/"
        echo "log_dest stdout"
        echo "log_timestamp_format %Y-%m-%dT%H:%M:%S%z"
        log_types
        echo "plugin $plugin"
    } | save
    note "a broker in its own right: port $port, ${PASSWORD_FILE:+passwords of $PASSWORD_FILE, }anonymous $anonymous"
}

# --- what is common to all ---------------------------------------------------------------------------------------------

# The configuration, from standard input, for the broker alone: a password may be in it.
save() {
    local old_mask
    old_mask=$(umask)
    umask 077
    cat >"$generated.new"
    umask "$old_mask"
    mv "$generated.new" "$generated"
}

# root may start the container on a volume that is root's.
give_to_broker() {
    if [ "$(id -u)" = 0 ]; then
        find "$data" "$base/log" ! -user $uid -exec chown -h $uid:$uid {} + ||
            note "not all of $data and $base/log could be given to uid $uid"
    fi
}

own_data() {
    if [ "$(id -u)" != 0 ] && [ ! -w "$data" ]; then
        printf 'metamorphosis: error: uid %s cannot write to %s: give it to that user, or start once as root\n' \
            "$(id -u)" "$data" >&2
        exit 1
    fi
}

# Sets file to the configuration that the broker runs with, or would run with.
choose_file() {
    if [ -e "$config" ]; then file=$config; else file=$generated; fi
}

# What the plugin takes in every mode, unless somebody says otherwise: a spool on disk, and HTTP for the others on the
# network.
export_defaults() {
    export HEALTH_ADDRESS=${HEALTH_ADDRESS:-all} SPOOL_DIR=${SPOOL_DIR:-$data/metamorphosis}
}

# The variables, those of .env too.
read_environment() {
    local name
    load_env_file
    end_with_mistakes
    for name in "${own[@]}"; do # an empty variable is none
        if [ -z "${!name:-}" ]; then unset "$name"; fi
    done
    export_defaults
}

run_broker() {
    local name file
    read_environment
    own_data
    choose_file
    if [ "$file" = "$config" ]; then
        if [ -n "${MQTT_BROKER:-}" ]; then note "MQTT_BROKER is set, but $config is there: it says what is done"; fi
    else
        if [ -n "${MQTT_BROKER:-}" ]; then
            write_bridge
            unset MQTT_TOPIC # the plugin has it from the configuration, without what it does not need
        else
            write_broker
        fi
        for name in "${own[@]}"; do
            if [ "$name" != MQTT_TOPIC ]; then unset "$name"; fi
        done
    fi
    give_to_broker
    exec mosquitto -c "$file"
}

run_health() {
    local file
    read_environment
    choose_file
    exec metamorphosis health "$@" "$file"
}

no_flag() {
    local name=${1#-}
    name=${name#-}
    name=${name%%=*}
    name=${name^^}
    printf 'metamorphosis: error: "%s": the image takes no flags; the variable %s does the same\n' \
        "${1//[[:cntrl:]]/?}" "${name//[^A-Z0-9]/_}" >&2
    exit 2
}

case ${1:-} in
    '') run_broker ;;
    health) run_health "${@:2}" ;;
    mosquitto)
        if [ "$*" = "mosquitto -c $config" ]; then run_broker; fi
        export_defaults
        give_to_broker
        exec "$@"
        ;;
    -*) no_flag "$1" ;;
    *) exec "$@" ;;
esac
