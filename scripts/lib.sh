# shellcheck shell=bash
# shellcheck disable=SC2034 # the names are for those who source this
# What scripts/test.sh and scripts/demo.sh have in common. To be sourced.

# Debian's names. The first list builds; the others run what their name says.
packages_build=(gcc libc6-dev cmake ninja-build pkg-config mosquitto-dev libmosquitto-dev librdkafka-dev
    libmicrohttpd-dev libcjson-dev libssl-dev)
# npm, which scripts/fetch-librdkafka.sh needs, comes in more than one package.
packages_bundled=(make libssl-dev zlib1g-dev libzstd-dev libcurl4-openssl-dev libsasl2-dev)
packages_unit=(libcmocka-dev patch)
packages_fuzz=(clang llvm)
packages_coverage=(clang llvm python3)
packages_valgrind=(valgrind)
# What a broker in the integration tests takes from its own system, beside what the package asks for (scripts/matrix.sh).
packages_broker=(mosquitto krb5-user libsasl2-modules-gssapi-mit)
packages_integration=("${packages_broker[@]}" binutils util-linux strace openjdk-17-jre-headless maven chromium prometheus
    krb5-kdc krb5-admin-server python3 python3-venv)
packages_deploy=(prometheus python3 python3-venv)
packages_image=(buildah debootstrap)
packages_package=(dpkg-dev file gzip)
packages_package_test=(debootstrap binutils git iproute2 util-linux)
packages_lint=(clang-format clang-tidy shellcheck git)
packages_demo=(mosquitto mosquitto-clients kcat curl)

# Where the sources are.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '\n==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# print_help: the comment at the head of the script that was called.
print_help() {
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
}

# need_value NAME VALUE...: of what is left, the first is an option, and its value stands behind it.
need_value() {
    [ $# -ge 2 ] || die "$1 needs a value; --help shows how"
}

# other_argument ARGUMENT: one that is none of the script's own: --help, or a mistake.
other_argument() {
    case $1 in
        -h | --help)
            print_help
            exit 0
            ;;
        *) die "unknown option \"$1\"; --help shows them" ;;
    esac
}

# take_argument NAME ARGUMENT...: the first of what is left, as the scripts that run pytest share it: --NAME VALUE, which
# goes to the variable NAME, -k and all behind --, which go to pytest_args, and --help. n_taken: of how many it consists.
take_argument() {
    local name=$1
    shift
    n_taken=1
    case $1 in
        "--$name" | -k)
            need_value "$@"
            if [ "$1" = -k ]; then pytest_args+=(-k "$2"); else printf -v "$name" %s "$2"; fi
            n_taken=2
            ;;
        "--$name="*) printf -v "$name" %s "${1#*=}" ;;
        --)
            n_taken=$#
            pytest_args+=("${@:2}")
            ;;
        *) other_argument "$1" ;;
    esac
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "cannot install packages: neither root nor sudo"
    fi
}

# install_packages NAME...: with apt, those that are not there. Costs one dpkg-query when nothing is missing.
install_packages() {
    local name status
    local -A installed=()
    local missing=()
    if ! command -v dpkg-query >/dev/null; then
        note "no dpkg here: what is needed is taken to be there ($*)"
        return
    fi
    while read -r name status; do
        if [ "$status" = installed ]; then installed[$name]=1; fi
    done < <(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true)
    for name in "$@"; do
        if [ -z "${installed[$name]:-}" ]; then missing+=("$name"); fi
    done
    if [ ${#missing[@]} -eq 0 ]; then return; fi

    say "installing ${missing[*]}"
    apt_install "${missing[@]}"
    # The broker that came with it is no service that anybody asked for. One that was there before is left as it is.
    if [[ " ${missing[*]} " = *" mosquitto "* ]] && [ -d /run/systemd/system ]; then
        note "the system's own mosquitto.service is not started, now or at the next boot"
        as_root systemctl --quiet disable mosquitto.service || true
    fi
}

# apt_install NAME...: and start no service of theirs.
apt_install() {
    local policy=/usr/sbin/policy-rc.d
    local ours=no code=0
    if [ ! -e $policy ]; then
        ours=yes
        printf '#!/bin/sh\n# Of %s, while it installs: starts no service.\nexit 101\n' "$(basename "$0")" |
            as_root tee $policy >/dev/null
        as_root chmod 0755 $policy
    fi
    {
        as_root apt-get -q update &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
                install --no-install-recommends "$@"
    } || code=$?
    if [ $ours = yes ]; then as_root rm -f $policy; fi
    if [ $code -ne 0 ]; then die "apt-get failed: install $* by hand"; fi
}

# What the integration tests use.
targets_integration=(mosquitto_metamorphosis metamorphosis loadgen bench_floor bench_producer spool_writer world mutants)

# build PRESET [TARGET...]: configure and compile what has changed, of all targets or of these.
build() {
    local preset=$1 log=$root/build/$1-configure.log
    shift
    local targets=()
    if [ $# -gt 0 ]; then targets=(--target "$@"); fi
    say "building (preset $preset, in build/$preset)"
    mkdir -p "$root/build"
    cd "$root" || exit
    # Said each time: whoever built here before may have left the tests out.
    if ! cmake --preset "$preset" -DBUILD_TESTING=ON >"$log" 2>&1; then
        cat "$log" >&2
        die "cmake does not find its way"
    fi
    cmake --build --preset "$preset" "${targets[@]}"
}

# mosquitto is in sbin, which is not in everybody's PATH.
mosquitto_binary() {
    command -v mosquitto || command -v /usr/sbin/mosquitto || die "no mosquitto found"
}

# prepare_venv NAME REQUIREMENTS [ARGUMENTS]: a Python environment of our own, build/NAME, made again when the
# requirements or the interpreter change. The arguments are pip's.
prepare_venv() {
    local venv=$root/build/$1 requirements=$root/$2 stamp
    shift 2
    stamp=$(python3 -c 'import sys; print(sys.version, sys.base_prefix)' && cat "$requirements")
    if [ -x "$venv/bin/pytest" ] && [ "$(cat "$venv/stamp" 2>/dev/null)" = "$stamp" ]; then return; fi
    say "making the Python environment ${venv#"$root/"}"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" -r "$requirements"
    printf '%s\n' "$stamp" >"$venv/stamp"
}
