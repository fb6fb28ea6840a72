# Cross builds for Linux on another architecture, with Debian's compilers:
#   cmake -DCMAKE_TOOLCHAIN_FILE=cmake/linux-cross.cmake -DHEDDLE_ARCH=aarch64 -DHEDDLE_SYSROOT=DIR ...
# HEDDLE_SYSROOT has usr/include and usr/lib/aarch64-linux-gnu with the C libraries that are linked (not libc: the compiler
# brings its own). HEDDLE_CXX and HEDDLE_CC name other compilers.
if(NOT HEDDLE_ARCH)
  set(HEDDLE_ARCH aarch64)
endif()
if(NOT HEDDLE_CXX)
  set(HEDDLE_CXX ${HEDDLE_ARCH}-linux-gnu-g++)
endif()
if(NOT HEDDLE_CC)
  set(HEDDLE_CC ${HEDDLE_ARCH}-linux-gnu-gcc)
endif()
# Projects of try_compile read this file again, without the cache.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES HEDDLE_ARCH HEDDLE_SYSROOT HEDDLE_CXX HEDDLE_CC)

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${HEDDLE_ARCH})
set(CMAKE_C_COMPILER ${HEDDLE_CC})
set(CMAKE_CXX_COMPILER ${HEDDLE_CXX})
set(CMAKE_LIBRARY_ARCHITECTURE ${HEDDLE_ARCH}-linux-gnu)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-${HEDDLE_ARCH}-static;-cpu;max;-L;/usr/${HEDDLE_ARCH}-linux-gnu)

# Libraries and headers of the target alone, programs of this machine.
set(CMAKE_FIND_ROOT_PATH ${HEDDLE_SYSROOT})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${HEDDLE_SYSROOT})
set(ENV{PKG_CONFIG_LIBDIR} ${HEDDLE_SYSROOT}/usr/lib/${HEDDLE_ARCH}-linux-gnu/pkgconfig)
