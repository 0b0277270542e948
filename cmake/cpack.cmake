# Read by cpack, once for each kind of package: what goes into it (see package.cmake).
list(GET CPACK_INSTALL_CMAKE_PROJECTS 0 build_dir)
set(kind plain)
if(CPACK_GENERATOR STREQUAL DEB)
    set(kind debian)
    # Files of the package lie below /etc, too.
    set(CPACK_SET_DESTDIR ON)
    set(CPACK_INSTALL_PREFIX /usr)
endif()
set(CPACK_INSTALL_CMAKE_PROJECTS
    "${build_dir};${CPACK_PACKAGE_NAME};runtime;/;${build_dir};${CPACK_PACKAGE_NAME};${kind};/")
