# The target mm_rdkafka: the system's librdkafka, or one that is built here from the sources that librdkafka.lock names
# (scripts/fetch-librdkafka.sh fetches them) and linked statically. Its symbols stay hidden, so that it does not meet a
# librdkafka that another plugin of the same broker brings along. What it stands on (OpenSSL, zlib, zstd, libcurl,
# Cyrus SASL) is the system's.

add_library(mm_rdkafka INTERFACE)

if(MM_RDKAFKA STREQUAL system)
    pkg_check_modules(RDKAFKA REQUIRED IMPORTED_TARGET rdkafka>=2.0.2)
    target_link_libraries(mm_rdkafka INTERFACE PkgConfig::RDKAFKA)
    return()
elseif(NOT MM_RDKAFKA STREQUAL bundled)
    message(FATAL_ERROR "MM_RDKAFKA is \"${MM_RDKAFKA}\": expected system or bundled")
endif()

include(ExternalProject)

file(STRINGS ${CMAKE_CURRENT_LIST_DIR}/librdkafka.lock lock REGEX "^[a-z0-9]+=")
foreach(line IN LISTS lock)
    string(REGEX MATCH "^([a-z0-9]+)=(.*)$" line ${line})
    set(lock_${CMAKE_MATCH_1} ${CMAKE_MATCH_2})
endforeach()

set(MM_RDKAFKA_ARCHIVE
    ${PROJECT_SOURCE_DIR}/build/downloads/librdkafka-${lock_librdkafka}.tgz
    CACHE FILEPATH "The sources of the bundled librdkafka, as scripts/fetch-librdkafka.sh fetches them")
if(NOT EXISTS ${MM_RDKAFKA_ARCHIVE})
    message(FATAL_ERROR "No ${MM_RDKAFKA_ARCHIVE}: run scripts/fetch-librdkafka.sh")
endif()
# Only of the very bytes that were tried; ExternalProject looks at build time, this tells sooner.
file(SHA256 ${MM_RDKAFKA_ARCHIVE} found_sha256)
if(NOT found_sha256 STREQUAL lock_sha256)
    message(FATAL_ERROR "${MM_RDKAFKA_ARCHIVE} is not what cmake/librdkafka.lock names: "
                        "sha256 ${found_sha256}, expected ${lock_sha256}")
endif()

pkg_check_modules(RDKAFKA_NEEDS REQUIRED IMPORTED_TARGET libssl libcrypto zlib libzstd libcurl libsasl2)
find_program(MM_MAKE NAMES gmake make REQUIRED)

set(prefix ${CMAKE_BINARY_DIR}/librdkafka)
set(library ${prefix}/lib/librdkafka.a)
file(MAKE_DIRECTORY ${prefix}/include/librdkafka ${prefix}/lib)
ExternalProject_Add(
    librdkafka
    PREFIX ${prefix}
    URL ${MM_RDKAFKA_ARCHIVE}
    URL_HASH SHA256=${lock_sha256}
    DOWNLOAD_EXTRACT_TIMESTAMP OFF
    PATCH_COMMAND
    SOURCE_SUBDIR deps/librdkafka
    BUILD_IN_SOURCE ON
    CONFIGURE_COMMAND
        ./configure --cc=${CMAKE_C_COMPILER} --no-download --disable-lz4-ext --enable-ssl --enable-zlib
        --enable-zstd --enable-curl --enable-gssapi --disable-debug-symbols
        "--CFLAGS=-O2 -fPIC -fvisibility=hidden"
    BUILD_COMMAND ${MM_MAKE} -C src librdkafka.a
    INSTALL_COMMAND
        ${CMAKE_COMMAND} -E copy_if_different src/rdkafka.h src/rdkafka_mock.h ${prefix}/include/librdkafka
    COMMAND ${CMAKE_COMMAND} -E copy_if_different src/librdkafka.a ${prefix}/lib
    COMMAND ${CMAKE_COMMAND} -E copy_if_different LICENSES.txt ${prefix}
    BUILD_BYPRODUCTS ${library}
    LOG_CONFIGURE ON
    LOG_BUILD ON
    LOG_OUTPUT_ON_FAILURE ON)

add_dependencies(mm_rdkafka librdkafka)
target_include_directories(mm_rdkafka SYSTEM INTERFACE ${prefix}/include)
target_link_libraries(mm_rdkafka INTERFACE ${library} PkgConfig::RDKAFKA_NEEDS m dl Threads::Threads)
target_link_options(mm_rdkafka INTERFACE -Wl,--exclude-libs,librdkafka.a)
install(
    FILES ${prefix}/LICENSES.txt
    DESTINATION ${CMAKE_INSTALL_DOCDIR}
    RENAME LICENSES.librdkafka.txt
    COMPONENT runtime)
