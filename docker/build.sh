#!/usr/bin/env bash
# Builds the container image of docker/Dockerfile: with docker where there is an engine, and otherwise, or with
# --stand-in, with buildah, on a base that debootstrap makes of the packages of this machine's mirror of Debian and that
# stands in for the image of the same suite. Installs what is missing for that.
#
#   docker/build.sh [options]
#
#   --suite NAME       of Debian: trixie (default), forky, sid
#   --tag NAME         metamorphosis:VERSION, or metamorphosis:VERSION-SUITE for another suite than trixie
#   --stand-in         buildah and debootstrap, also where there is an engine
#   --storage DIR      of the stand-in's images and bases; build/image
#   --rootfs DIR       with --stand-in: also lay out the image's files in DIR, and its configuration in DIR.json
#   -h, --help         this text
#
# The base is made once and kept; --storage DIR with another one, or rm -rf, makes it anew.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../scripts/lib-chroot.sh
. "$root/scripts/lib-chroot.sh"

suite=trixie tag='' stand_in=no storage=$root/build/image rootfs=''
while [ $# -gt 0 ]; do
    case $1 in
        --suite | --tag | --storage | --rootfs)
            need_value "$@"
            case $1 in
                --suite) suite=$2 ;;
                --tag) tag=$2 ;;
                --storage) storage=$(realpath -m "$2") ;;
                --rootfs) rootfs=$(realpath -m "$2") ;;
            esac
            shift
            ;;
        --stand-in) stand_in=yes ;;
        *) other_argument "$1" ;;
    esac
    shift
done
case $suite in
    trixie | forky | sid) ;;
    *) die "--suite \"$suite\": expected trixie, forky or sid" ;;
esac
[ -z "$rootfs" ] || [ $stand_in = yes ] || die "--rootfs goes with --stand-in"

cd "$root"
version=$(sed -n '/^project(/,/)/s/^ *VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
[ -n "$version" ] || die "no version in CMakeLists.txt"
revision=$(git describe --always --dirty --abbrev=40 2>/dev/null || echo unknown)
if [ -z "$tag" ]; then
    tag=metamorphosis:$version
    if [ "$suite" != trixie ]; then tag+=-$suite; fi
fi
arguments=(--tag "$tag" --build-arg "SUITE=$suite" --build-arg "VERSION=$version" --build-arg "REVISION=$revision")

# dockerfile_on BASE FILE: the Dockerfile with this image in the base's place. buildah, in version 1.28 at
# least, does not choose a stage by an argument.
dockerfile_on() {
    sed -e '/^FROM .* AS base-/d' -e "s|^FROM base-[^ ]* |FROM $1 |" docker/Dockerfile >"$2"
}

# --- with an engine --------------------------------------------------------------------------------

if [ $stand_in = no ]; then
    if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
        say "building $tag with docker"
        DOCKER_BUILDKIT=1 docker build --file docker/Dockerfile "${arguments[@]}" .
        exit 0
    fi
    note "no docker engine here: buildah builds on a stand-in for the base"
fi

# --- without one -----------------------------------------------------------------------------------

install_packages "${packages_image[@]}"
[ "$(id -u)" = 0 ] || die "debootstrap and buildah's chroot need root"
mkdir -p "$storage"

# overlay where the kernel and the file system have it; vfs, which copies the whole image at each step, is slow.
# STORAGE_DRIVER, as buildah's own variable, decides otherwise.
storage_driver() {
    local try=$storage/overlay-try driver=vfs
    if [ -n "${STORAGE_DRIVER:-}" ]; then
        echo "$STORAGE_DRIVER"
        return
    fi
    mkdir -p "$try"/{lower,upper,work,merged}
    if mount -t overlay overlay -o "lowerdir=$try/lower,upperdir=$try/upper,workdir=$try/work" "$try/merged" 2>/dev/null
    then
        umount "$try/merged"
        driver=overlay
    fi
    rm -rf "$try"
    echo $driver
}

# Everything of ours in one place: nothing of the system's own containers is looked at or changed.
buildah=(buildah --root "$storage/images" --runroot "$storage/run" --storage-driver "$(storage_driver)")
base=localhost/debian-stand-in:$suite

# What is in debian:SUITE-slim, by and large: the essential packages and apt, no documents, no services.
make_base() {
    local directory=$storage/base-$suite container
    say "making a stand-in for debian:$suite-slim (once)"
    rm -rf "$directory"
    bootstrap_debian "$suite" "$directory" "$storage/debootstrap-$suite.log"
    printf 'path-exclude /usr/share/%s/*\n' doc man info locale >"$directory/etc/dpkg/dpkg.cfg.d/slim"
    rm -rf "$directory"/var/lib/apt/lists/* "$directory"/var/cache/apt/* "$directory"/var/log/* \
        "$directory"/usr/share/{doc,man,info,locale}/*
    container=$("${buildah[@]}" from scratch)
    cp -a "$directory/." "$("${buildah[@]}" mount "$container")/"
    "${buildah[@]}" umount "$container" >/dev/null
    "${buildah[@]}" commit --quiet --rm "$container" "$base" >/dev/null
    rm -rf "$directory"
}

if ! "${buildah[@]}" inspect --type image "$base" >/dev/null 2>&1; then make_base; fi
say "building $tag with buildah"
dockerfile_on "$base" "$storage/Dockerfile"
"${buildah[@]}" build --isolation chroot --format docker --layers --file "$storage/Dockerfile" "${arguments[@]}" .

if [ -n "$rootfs" ]; then
    say "laying out $rootfs"
    rm -rf "$rootfs" "$rootfs.json"
    container=$("${buildah[@]}" from --pull-never "$tag")
    mkdir -p "$rootfs"
    cp -a "$("${buildah[@]}" mount "$container")/." "$rootfs/"
    "${buildah[@]}" umount "$container" >/dev/null
    "${buildah[@]}" rm "$container" >/dev/null
    "${buildah[@]}" inspect --type image "$tag" >"$rootfs.json"
fi
"${buildah[@]}" images --format "$tag: {{.Size}}" "$tag"
