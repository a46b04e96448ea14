# A relocatable tree. Component runtime: bin/aq-dist, lib/libaq-*.so, share/aq-dist with recipes, Slurm script, calibration
# tool and example, share/doc/aq-dist. Component development: include/aq, lib/cmake/aq-dist.
include(CMakePackageConfigHelpers)
set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME runtime)

get_property(libraries GLOBAL PROPERTY AQ_LIBRARIES)
install(TARGETS ${libraries} EXPORT aq-dist-targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET aq-dist)
  install(TARGETS aq-dist RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
# Users of the installed headers need no third-party header.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/aq DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development
        PATTERN core/json.h EXCLUDE)
install(EXPORT aq-dist-targets NAMESPACE aq:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/aq-dist COMPONENT development)

configure_package_config_file(
  ${CMAKE_CURRENT_LIST_DIR}/aq-dist-config.cmake.in ${PROJECT_BINARY_DIR}/aq-dist-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/aq-dist)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/aq-dist-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/aq-dist-config.cmake
              ${PROJECT_BINARY_DIR}/aq-dist-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/aq-dist COMPONENT development)

set(share ${CMAKE_INSTALL_DATADIR}/aq-dist)
install(DIRECTORY configs examples slurm DESTINATION ${share} USE_SOURCE_PERMISSIONS)
install(PROGRAMS tools/prepare_calibration.py DESTINATION ${share}/tools)
install(DIRECTORY tools/calibration DESTINATION ${share}/tools FILES_MATCHING PATTERN *.py PATTERN __pycache__ EXCLUDE)
install(FILES README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright)
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR})
