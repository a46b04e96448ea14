# A relocatable tree: bin/aq-dist, lib/libaq-*.so, include/aq, lib/cmake/aq-dist.
include(CMakePackageConfigHelpers)

get_property(libraries GLOBAL PROPERTY AQ_LIBRARIES)
install(TARGETS ${libraries} EXPORT aq-dist-targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET aq-dist)
  install(TARGETS aq-dist RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
# Users of the installed headers need no third-party header.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/aq DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} PATTERN core/json.h EXCLUDE)
install(EXPORT aq-dist-targets NAMESPACE aq:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/aq-dist)

configure_package_config_file(
  ${CMAKE_CURRENT_LIST_DIR}/aq-dist-config.cmake.in ${PROJECT_BINARY_DIR}/aq-dist-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/aq-dist)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/aq-dist-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/aq-dist-config.cmake
              ${PROJECT_BINARY_DIR}/aq-dist-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/aq-dist)
