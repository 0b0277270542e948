#!/usr/bin/env bash
# Installs what is missing, and builds the packages for the Debian that it runs on: metamorphosis_VERSION_ARCH.deb, and a
# .tar.gz to unpack in /usr/local. The same sources and compiler give the same bytes, wherever and whenever.
#
#   scripts/package.sh [options]
#
#   --output DIR   where they are put; build/packages
#   -h, --help     this text
#
# SOURCE_DATE_EPOCH is the time that the files in them have: that of the last commit, or, without git, the one in
# packaging/debian/changelog.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

output=$root/build/packages
while [ $# -gt 0 ]; do
    case $1 in
        --output)
            need_value "$@"
            output=$(realpath -m "$2")
            shift
            ;;
        *) other_argument "$1" ;;
    esac
    shift
done

install_packages "${packages_build[@]}" "${packages_package[@]}"
cd "$root"
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git -C "$root" log -1 --format=%ct 2>/dev/null) ||
        SOURCE_DATE_EPOCH=$(date -d "$(sed -n 's/^ -- .*>  //p' packaging/debian/changelog | head -n 1)" +%s)
fi
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC
umask 022

say "building (preset package, in build/package)"
mkdir -p build
# Not what another build directory of that name was told.
cmake --preset package --fresh -B build/package >build/package-configure.log 2>&1 ||
    { cat build/package-configure.log >&2 && die "cmake does not find its way"; }
cmake --build build/package --target mosquitto_metamorphosis metamorphosis package_files

say "packing"
mkdir -p "$output"
rm -rf build/package/out
cpack --config build/package/CPackConfig.cmake -G DEB -B build/package/out >build/package/cpack-deb.log 2>&1 ||
    { cat build/package/cpack-deb.log >&2 && die "cpack failed"; }
mv build/package/out/*.deb "$output/"

# The archive is for /usr/local of any system: lib, whatever the name of the directory is on this one. cpack lays out its
# files, and tar packs them: cpack's own archives have the owner and the order of files of the day.
cmake -B build/package -DCMAKE_INSTALL_PREFIX=/usr/local -DCMAKE_INSTALL_LIBDIR=lib >>build/package-configure.log 2>&1
cpack --config build/package/CPackConfig.cmake -G TGZ -B build/package/out >build/package/cpack-tgz.log 2>&1 ||
    { cat build/package/cpack-tgz.log >&2 && die "cpack failed"; }
archive=$(basename build/package/out/*.tar.gz)
tar --create --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" --format=gnu \
    --directory "build/package/out/_CPack_Packages/Linux/TGZ" "${archive%.tar.gz}" | gzip -9n >"$output/$archive"
rm -rf build/package/out
(cd "$output" && sha256sum -- *.deb "$archive")
