# What "cmake --install" installs, and what packages hold. scripts/package.sh builds the packages.
#
# Three components: runtime (plugin, tool, documents), plain (manual pages and licence as they are) and debian (what
# only a package of Debian has: compressed, below /etc, or of its policy). An archive, and "cmake --install", have
# the first two, a .deb the first and the last.

set(CMAKE_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(package_dir ${CMAKE_BINARY_DIR}/packaging)
set(man_pages docs/man/metamorphosis.1 docs/man/mosquitto_metamorphosis.7)

# --- runtime and plain ---

install(TARGETS mosquitto_metamorphosis metamorphosis_power LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime)
install(TARGETS metamorphosis RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT runtime)
install(FILES README.md DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT runtime)
install(
    DIRECTORY docs
    DESTINATION ${CMAKE_INSTALL_DOCDIR}
    COMPONENT runtime
    FILES_MATCHING
    PATTERN "*.md"
    PATTERN "man" EXCLUDE)

# What a system unit of the broker should have; an example wherever the package does not install it itself.
configure_file(packaging/systemd/metamorphosis.conf.in ${package_dir}/systemd/metamorphosis.conf @ONLY)
configure_file(packaging/systemd/hardening.conf ${package_dir}/systemd/hardening.conf COPYONLY)
# The example, with the place that the plugin is installed to.
file(READ mosquitto.conf.example example)
string(REPLACE "plugin /usr/local/lib/mosquitto_metamorphosis.so"
               "plugin ${CMAKE_INSTALL_FULL_LIBDIR}/mosquitto_metamorphosis.so" example "${example}")
file(WRITE ${package_dir}/mosquitto.conf.example "${example}")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS mosquitto.conf.example)
install(
    FILES ${package_dir}/mosquitto.conf.example
    DESTINATION ${CMAKE_INSTALL_DOCDIR}/examples
    COMPONENT runtime)
install(
    FILES ${package_dir}/systemd/metamorphosis.conf ${package_dir}/systemd/hardening.conf
    DESTINATION ${CMAKE_INSTALL_DOCDIR}/examples/mosquitto.service.d
    COMPONENT runtime)

install(FILES CHANGELOG.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT plain)
foreach(page IN LISTS man_pages)
    string(REGEX MATCH "[0-9]$" section ${page})
    install(FILES ${page} DESTINATION ${CMAKE_INSTALL_MANDIR}/man${section} COMPONENT plain)
endforeach()

# --- debian ---

if(NOT DEFINED CPACK_DEBIAN_PACKAGE_NAME)
    set(CPACK_DEBIAN_PACKAGE_NAME metamorphosis)
endif()
set(debian_doc_dir /usr/share/doc/${CPACK_DEBIAN_PACKAGE_NAME})
configure_file(packaging/debian/metamorphosis.conf.in ${package_dir}/conf.d/metamorphosis.conf @ONLY)
foreach(script postinst prerm postrm)
    configure_file(packaging/debian/${script} ${package_dir}/control/${script} COPYONLY)
endforeach()
file(WRITE ${package_dir}/control/conffiles "/etc/mosquitto/conf.d/metamorphosis.conf\n")

# compressed FILE NAME: the file, as gzip makes it without its name and time.
find_program(MM_GZIP gzip)
set(compressed_files)
function(compressed file name)
    set(output ${package_dir}/gz/${name}.gz)
    add_custom_command(
        OUTPUT ${output}
        COMMAND sh -c "mkdir -p '${package_dir}/gz' && '${MM_GZIP}' -9nc '${file}' >'${output}'"
        DEPENDS ${file}
        VERBATIM)
    set(compressed_files ${compressed_files} ${output} PARENT_SCOPE)
endfunction()
if(MM_GZIP)
    compressed(${PROJECT_SOURCE_DIR}/CHANGELOG.md changelog)
    compressed(${PROJECT_SOURCE_DIR}/packaging/debian/changelog changelog.Debian)
    foreach(page IN LISTS man_pages)
        get_filename_component(name ${page} NAME)
        compressed(${PROJECT_SOURCE_DIR}/${page} ${name})
    endforeach()
    add_custom_target(package_files ALL DEPENDS ${compressed_files})
endif()

install(FILES ${package_dir}/gz/changelog.gz ${package_dir}/gz/changelog.Debian.gz packaging/debian/copyright
        DESTINATION ${debian_doc_dir} COMPONENT debian EXCLUDE_FROM_ALL)
install(FILES packaging/debian/lintian-overrides DESTINATION /usr/share/lintian/overrides
        RENAME ${CPACK_DEBIAN_PACKAGE_NAME} COMPONENT debian EXCLUDE_FROM_ALL)
install(FILES ${package_dir}/conf.d/metamorphosis.conf DESTINATION /etc/mosquitto/conf.d
        COMPONENT debian EXCLUDE_FROM_ALL)
# In /lib, as the broker's unit has it on Debian 12; that is /usr/lib there and later.
install(FILES ${package_dir}/systemd/metamorphosis.conf DESTINATION /usr/lib/systemd/system/mosquitto.service.d
        COMPONENT debian EXCLUDE_FROM_ALL)
foreach(page IN LISTS man_pages)
    get_filename_component(name ${page} NAME)
    string(REGEX MATCH "[0-9]$" section ${page})
    install(FILES ${package_dir}/gz/${name}.gz DESTINATION /usr/share/man/man${section}
            COMPONENT debian EXCLUDE_FROM_ALL)
endforeach()

# --- cpack ---

set(CPACK_GENERATOR TGZ)
set(CPACK_PACKAGE_VENDOR "Metamorphosis")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Mosquitto plugin that carries MQTT messages to Apache Kafka")
set(CPACK_PACKAGE_CONTACT "Metamorphosis maintainers <maintainers@users.noreply.r-seed-a1a4294b.example>")
set(CPACK_PACKAGE_FILE_NAME ${PROJECT_NAME}-${PROJECT_VERSION}-${CMAKE_SYSTEM_NAME}-${CMAKE_SYSTEM_PROCESSOR})
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS ${CMAKE_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS})
set(CPACK_PROJECT_CONFIG_FILE ${PROJECT_SOURCE_DIR}/cmake/cpack.cmake)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
    "A plugin for the MQTT broker Mosquitto that writes what is published to
Apache Kafka. A QoS 1 or 2 message that was acknowledged reaches Kafka, in
order for each MQTT topic: it waits in files while Kafka is away, and
outlives crashes and restarts of the broker.
.
With it comes metamorphosis(1), which checks configurations, shows what
waits, and brings it to Kafka without a broker.")
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "mosquitto (>= 2.0.11)")
if(MM_RDKAFKA STREQUAL system)
    # More than its symbols ask for.
    string(APPEND CPACK_DEBIAN_PACKAGE_DEPENDS ", librdkafka1 (>= 2.0.2)")
endif()
# The authorities that the system trusts; kinit and the module of SASL, for Kerberos.
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS ca-certificates)
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "krb5-user, libsasl2-modules-gssapi-mit")
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
    ${package_dir}/control/conffiles ${package_dir}/control/postinst ${package_dir}/control/prerm
    ${package_dir}/control/postrm)
include(CPack)
