# The libraries that are not ours. TVM's come from the Python packages, simdjson and nettle from the system.
foreach(root TVM_FFI_ROOT TVM_ROOT)
  if(NOT ${root} OR NOT IS_DIRECTORY ${${root}})
    message(FATAL_ERROR "${root}=\"${${root}}\" is no folder: give -D${root}=, the folder of the Python package "
                        "(python -c 'import tvm_ffi; print(tvm_ffi.__path__[0])', and of tvm likewise)")
  endif()
endforeach()

find_package(Threads REQUIRED)

# A library at a known place. NO_CMAKE_FIND_ROOT_PATH: the packages do not stand in a cross compiler's root.
function(heddle_import target folder name)
  find_library(${target}_LIBRARY NAMES ${name} PATHS ${folder} NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH REQUIRED)
  add_library(${target} SHARED IMPORTED GLOBAL)
  set_target_properties(
    ${target} PROPERTIES IMPORTED_LOCATION ${${target}_LIBRARY} IMPORTED_IMPLIB ${${target}_LIBRARY})
endfunction()

heddle_import(tvm_ffi ${TVM_FFI_ROOT}/lib tvm_ffi)
target_include_directories(tvm_ffi SYSTEM INTERFACE ${TVM_FFI_ROOT}/include)
heddle_import(tvm_runtime ${TVM_ROOT}/lib tvm_runtime)

# Nothing of ours calls it by name: what it registers when it is loaded is what is needed.
add_library(heddle_tvm INTERFACE)
if(APPLE OR WIN32)
  target_link_libraries(heddle_tvm INTERFACE tvm_runtime tvm_ffi)
else()
  target_link_libraries(heddle_tvm INTERFACE -Wl,--push-state,--no-as-needed tvm_runtime -Wl,--pop-state tvm_ffi)
endif()

# The version of a package by the folder that its installation left beside it; unknown where libraries stand alone.
function(heddle_version variable root package)
  file(GLOB found ${root}/../${package}-*.dist-info)
  if(NOT ${variable} AND found MATCHES "${package}-([0-9][^/;]*)\\.dist-info$")
    set(${variable} ${CMAKE_MATCH_1} PARENT_SCOPE)
  endif()
endfunction()

heddle_version(HEDDLE_TVM_VERSION ${TVM_ROOT} apache_tvm)
heddle_version(HEDDLE_FFI_VERSION ${TVM_FFI_ROOT} apache_tvm_ffi)

# A library of the system, static where that exists and is wanted, with its header.
function(heddle_find target header)
  find_library(${target}_LIBRARY NAMES ${ARGN} REQUIRED)
  find_path(${target}_INCLUDE ${header} REQUIRED)
  add_library(${target} UNKNOWN IMPORTED GLOBAL)
  set_target_properties(${target} PROPERTIES IMPORTED_LOCATION ${${target}_LIBRARY})
  target_include_directories(${target} SYSTEM INTERFACE ${${target}_INCLUDE})
endfunction()

heddle_find(heddle_simdjson simdjson.h simdjson)
heddle_find(heddle_nettle nettle/sha2.h libnettle.a nettle)
