# Code for GPUs. The runtime is linked statically and loads the driver when it is first called, so that the program also
# starts where there is none.
find_package(CUDAToolkit 12.0 REQUIRED)
if(NOT CMAKE_CUDA_COMPILER)
  set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
endif()
set(architectures 80-real 90-real)
if(CUDAToolkit_VERSION VERSION_GREATER_EQUAL 12.8)
  list(APPEND architectures 100)
endif()
set(AQ_CUDA_ARCHITECTURES "${architectures}" CACHE STRING "Compute capabilities, as CMake's CUDA_ARCHITECTURES has them")
set(CMAKE_CUDA_ARCHITECTURES ${AQ_CUDA_ARCHITECTURES})
enable_language(CUDA)
# CMake 3.25 does not know that nvcc 12 has it.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()

# aq_add_gpu_code(<module> SOURCES ...): .cu files of a module.
function(aq_add_gpu_code module)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "SOURCES")
  add_library(aq_${module}_gpu OBJECT ${ARG_SOURCES})
  target_include_directories(aq_${module}_gpu PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  target_compile_options(aq_${module}_gpu PRIVATE --expt-relaxed-constexpr)
  target_sources(aq_${module} PRIVATE $<TARGET_OBJECTS:aq_${module}_gpu>)
  target_link_libraries(aq_${module} PRIVATE CUDA::cudart_static)
  target_compile_definitions(aq_${module} PRIVATE AQ_WITH_CUDA)
endfunction()
