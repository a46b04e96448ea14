# Read by cpack before it packs.
if(NOT CPACK_AQ_TORCH MATCHES "^/usr/(lib|share)/")
  message(FATAL_ERROR "the Debian package depends on Debian's libtorch, and this build is of '${CPACK_AQ_TORCH}'; "
                      "use cmake --install, or build with libtorch-dev")
endif()
