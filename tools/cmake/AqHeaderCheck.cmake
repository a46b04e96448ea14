# aq_add_header_check(): compiles every public header alone, so that each names what it needs, and
# with no third-party include directory. Part of the default build; only headers that changed are
# compiled again.
function(aq_add_header_check)
  set(include_dir ${PROJECT_SOURCE_DIR}/include)
  set(generated_dir ${PROJECT_BINARY_DIR}/header_check)
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS RELATIVE ${include_dir} ${include_dir}/aq/*.h)
  set(sources "")
  foreach(header IN LISTS headers)
    string(REPLACE "/" "_" name ${header})
    set(source ${generated_dir}/${name}.cpp)
    # Included twice: the second time must change nothing. Written only when the text is new.
    file(CONFIGURE OUTPUT ${source} CONTENT "#include \"${header}\"\n#include \"${header}\"\n")
    list(APPEND sources ${source})
  endforeach()
  add_library(aq_header_check OBJECT ${sources})
  target_link_libraries(aq_header_check PRIVATE aq_settings)
  target_include_directories(aq_header_check PRIVATE ${include_dir})
  target_compile_options(aq_header_check PRIVATE -O0 -g0)
endfunction()
