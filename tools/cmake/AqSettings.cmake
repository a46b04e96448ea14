# Compiler settings for every target of this project.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

include(GNUInstallDirs)
# One tree: bin/ and lib/ beside each other, before and after installation.
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)
set(CMAKE_BUILD_RPATH "$ORIGIN;$ORIGIN/../lib")
set(CMAKE_INSTALL_RPATH "$ORIGIN;$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

# An INTERFACE target with what every target of the project compiles with. No -ffast-math anywhere:
# results must not depend on how the compiler orders sums.
add_library(aq_settings INTERFACE)
target_compile_options(aq_settings INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion
                                             -Wno-sign-conversion -fno-math-errno)
if(AQ_WARNINGS_AS_ERRORS)
  target_compile_options(aq_settings INTERFACE -Werror)
  if(NOT AQ_SANITIZE)  # which sees by itself what lies outside
    # Subscripts are Index, which is signed: one outside its container ends the program.
    target_compile_definitions(aq_settings INTERFACE _GLIBCXX_ASSERTIONS)
  endif()
endif()
if(AQ_SANITIZE)
  # -O1 -g1: half the compile time of -O2 -g, and traces still name file and line.
  target_compile_options(aq_settings INTERFACE -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all
                                               -fno-omit-frame-pointer)
  target_link_options(aq_settings INTERFACE -fsanitize=address,undefined)
endif()
if(AQ_BUILD_FUZZERS)
  # The usual name of a build in which checksums do not keep a fuzzer from what lies behind them.
  target_compile_definitions(aq_settings INTERFACE FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION)
  target_compile_options(aq_settings INTERFACE -fsanitize=fuzzer-no-link)
  target_link_options(aq_settings INTERFACE -fsanitize=fuzzer-no-link)
endif()
