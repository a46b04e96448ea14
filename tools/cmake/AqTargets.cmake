# aq_add_library(<module> SOURCES ... [DEPENDS <lower modules>] [PRIVATE <third-party targets>])
# One shared library a module, so that what a module uses is written down where it is built.
function(aq_add_library module)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "SOURCES;DEPENDS;PRIVATE")
  add_library(aq_${module} SHARED ${ARG_SOURCES})
  add_library(aq::${module} ALIAS aq_${module})
  set_target_properties(aq_${module} PROPERTIES OUTPUT_NAME aq-${module} EXPORT_NAME ${module})
  target_include_directories(
    aq_${module} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                        $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
    PRIVATE ${PROJECT_SOURCE_DIR}/src)
  target_compile_features(aq_${module} PUBLIC cxx_std_20)
  list(TRANSFORM ARG_DEPENDS PREPEND aq::)
  target_link_libraries(aq_${module} PUBLIC ${ARG_DEPENDS}
                        PRIVATE $<BUILD_INTERFACE:aq_settings> ${ARG_PRIVATE})
  set_property(GLOBAL APPEND PROPERTY AQ_LIBRARIES aq_${module})
endfunction()

# aq_add_test(<name> SOURCES ... LIBRARIES <modules> [LABEL unit|runtime|e2e] [TIMEOUT seconds])
# A GoogleTest program, with GoogleTest's own main, that runs as one test.
function(aq_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "LABEL;TIMEOUT" "SOURCES;LIBRARIES")
  aq_add_test_program(${name} SOURCES ${ARG_SOURCES} LIBRARIES ${ARG_LIBRARIES})
  target_link_libraries(${name} PRIVATE GTest::gtest_main)
  if(NOT ARG_LABEL)
    set(ARG_LABEL unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  add_test(NAME ${ARG_LABEL}.${name} COMMAND ${name})
  set_tests_properties(${ARG_LABEL}.${name} PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT})
endfunction()

# aq_add_mpi_test(<name> SOURCES ... LIBRARIES <modules> RANKS 1 2 3 4 [LABEL mpi] [TIMEOUT seconds])
# The same program under mpirun, one test a rank count, with the main of tests/support/mpi_main.cpp.
function(aq_add_mpi_test name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "LABEL;TIMEOUT" "SOURCES;LIBRARIES;RANKS")
  aq_add_test_program(
    ${name} SOURCES ${ARG_SOURCES} ${PROJECT_SOURCE_DIR}/tests/support/mpi_main.cpp
    LIBRARIES ${ARG_LIBRARIES} comm)
  if(NOT ARG_LABEL)
    set(ARG_LABEL mpi)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 180)
  endif()
  foreach(ranks IN LISTS ARG_RANKS)
    set(test ${ARG_LABEL}.${name}.ranks${ranks})
    add_test(NAME ${test} COMMAND ${AQ_MPIRUN} -n ${ranks} $<TARGET_FILE:${name}>)
    set_tests_properties(${test} PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT}
                                            PROCESSORS ${ranks} ENVIRONMENT "${AQ_MPI_ENVIRONMENT}")
  endforeach()
endfunction()

# Paths of this clone stand in one header, so that objects of other test files serve other clones too (ccache).
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/generated/test_paths.h CONTENT [=[
#pragma once
#define AQ_TEST_DATA "@PROJECT_SOURCE_DIR@/tests/golden"
#define AQ_EXAMPLES "@PROJECT_SOURCE_DIR@/examples"
]=] @ONLY)

function(aq_add_test_program name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "SOURCES;LIBRARIES")
  add_executable(${name} ${ARG_SOURCES})
  list(TRANSFORM ARG_LIBRARIES PREPEND aq::)
  target_link_libraries(${name} PRIVATE ${ARG_LIBRARIES} aq_settings GTest::gtest GTest::gmock)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests ${PROJECT_SOURCE_DIR}/src
                                             ${PROJECT_BINARY_DIR}/generated)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  if(CMAKE_CURRENT_SOURCE_DIR MATCHES "/tests/unit/")
    add_dependencies(aq_unit_tests ${name})
  endif()
endfunction()

# Builds every program under tests/unit.
add_custom_target(aq_unit_tests)

# How tests start ranks: more ranks than cores are normal there, and waiting ranks give way.
set(AQ_MPIRUN mpirun --oversubscribe --bind-to none --mca mpi_yield_when_idle 1)
set(AQ_MPI_ENVIRONMENT OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
                       OMPI_MCA_btl_vader_single_copy_mechanism=none)
