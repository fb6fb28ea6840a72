# `cmake --install`: the library with what it loads, heddle-run, the header, and what find_package(Heddle) and pkg-config read.
# Nothing in it names its place: the folder may be moved.
include(CMakePackageConfigHelpers)

install(TARGETS heddle EXPORT HeddleTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES ${PROJECT_SOURCE_DIR}/include/heddle.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET heddle-run)
  install(TARGETS heddle-run heddle_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()

# The libraries that are loaded beside ours, by the names under which they are looked for.
foreach(library ${tvm_ffi_LIBRARY} ${tvm_runtime_LIBRARY} ${heddle_simdjson_LIBRARY})
  get_filename_component(file ${library} REALPATH)
  if(file MATCHES "\\.so[.0-9]*$")
    get_filename_component(name ${library} NAME)
    execute_process(COMMAND ${CMAKE_OBJDUMP} -p ${file} OUTPUT_VARIABLE head RESULT_VARIABLE failed)
    if(failed)
      message(FATAL_ERROR "objdump (CMAKE_OBJDUMP=${CMAKE_OBJDUMP}) cannot read ${file}: ${failed}")
    endif()
    if(head MATCHES "SONAME +([^ \n]+)")
      set(name ${CMAKE_MATCH_1})
    endif()
    install(PROGRAMS ${file} DESTINATION ${CMAKE_INSTALL_LIBDIR} RENAME ${name})
  else()
    install(PROGRAMS ${file} DESTINATION ${CMAKE_INSTALL_LIBDIR})
  endif()
endforeach()

set(config ${CMAKE_INSTALL_LIBDIR}/cmake/Heddle)
install(EXPORT HeddleTargets NAMESPACE Heddle:: DESTINATION ${config})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/HeddleConfig.cmake.in HeddleConfig.cmake INSTALL_DESTINATION ${config})
write_basic_package_version_file(HeddleConfigVersion.cmake COMPATIBILITY SameMinorVersion)
file(RELATIVE_PATH HEDDLE_UP /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${PROJECT_SOURCE_DIR}/cmake/heddle.pc.in heddle.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/HeddleConfig.cmake ${PROJECT_BINARY_DIR}/HeddleConfigVersion.cmake DESTINATION ${config})
install(FILES ${PROJECT_BINARY_DIR}/heddle.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
