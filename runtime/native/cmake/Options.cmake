# How all code is compiled: C++17 for the architecture's baseline, hardened, sections that nothing uses dropped.
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
# Nothing here is worth more bytes: what takes time is the compiled model.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")

set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)

# A package is moved around: programs look for libraries beside themselves before anywhere else.
set(CMAKE_BUILD_RPATH_USE_ORIGIN ON)
set(CMAKE_INSTALL_RPATH "$ORIGIN;$ORIGIN/../lib")

add_library(heddle_options INTERFACE)
if(MSVC)
  target_compile_options(heddle_options INTERFACE /W4 $<$<BOOL:${HEDDLE_WERROR}>:/WX> /utf-8)
else()
  target_compile_options(
    heddle_options INTERFACE -Wall -Wextra $<$<BOOL:${HEDDLE_WERROR}>:-Werror> -ffunction-sections -fdata-sections
                             -fstack-protector-strong)
  # Files and prompts come from anywhere: a place outside of a text or a list ends the program, whatever was checked before.
  target_compile_definitions(heddle_options INTERFACE _GLIBCXX_ASSERTIONS)
  if(APPLE)
    target_link_options(heddle_options INTERFACE -Wl,-dead_strip)
  else()
    target_link_options(heddle_options INTERFACE -Wl,--gc-sections -Wl,-z,relro,-z,now)
    if(NOT HEDDLE_SANITIZE)  # what sanitizers tell needs names
      target_link_options(heddle_options INTERFACE $<$<CONFIG:Release>:-s>)
    endif()
  endif()
  # Old CPUs must get as far as the message that tells them what they lack.
  if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
    target_compile_options(heddle_options INTERFACE -march=x86-64)
  elseif(CMAKE_SYSTEM_PROCESSOR STREQUAL "aarch64")
    target_compile_options(heddle_options INTERFACE -march=armv8-a)
  endif()
endif()

if(HEDDLE_SANITIZE)
  # What stands in the libraries of others is not checked: they are not built here.
  add_compile_options(-fsanitize=${HEDDLE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g)
  add_link_options(-fsanitize=${HEDDLE_SANITIZE})
endif()
