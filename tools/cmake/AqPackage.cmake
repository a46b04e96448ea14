# `cpack` in a build directory makes two Debian packages: aq-dist (what runs) and aq-dist-dev (headers, CMake package).
# What libraries they depend on is computed from the files (dpkg-shlibdeps; needs dpkg-dev and file).
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_CONTACT "aq-dist maintainers <maintainers@aq-dist.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ
                                                WORLD_EXECUTE)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL runtime development)
set(CPACK_COMPONENT_RUNTIME_DESCRIPTION
    "Quantizes large Mixture-of-Experts language-model checkpoints on many MPI ranks and exports what servers load.")
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION "Headers and the CMake package of the libraries of aq-dist.")

set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_NAME aq-dist)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_DEPENDS openmpi-bin)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_RECOMMENDS "python3-h5py, python3-numpy, python3-venv")
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME aq-dist-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS "aq-dist (= ${PROJECT_VERSION})")

# dpkg-shlibdeps passes over libraries that no package owns: a LibTorch from elsewhere would be missing unnoticed.
set(CPACK_AQ_TORCH "${Torch_DIR}")
set(CPACK_PROJECT_CONFIG_FILE ${CMAKE_CURRENT_LIST_DIR}/AqPackageCheck.cmake)
include(CPack)
