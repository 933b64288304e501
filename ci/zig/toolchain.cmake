# Cross-compiles with zig, whose libc++ is linked in and whose glibc is as old as asked. Made for ci/build_wheels.sh, which exports
# MPL_SPARSE_ZIG_COMMANDS (a folder with the commands cc, c++, ar, ranlib for one target) and MPL_SPARSE_ZIG_PROCESSOR.
cmake_host_system_information(RESULT host QUERY OS_PLATFORM)
if(NOT host STREQUAL "$ENV{MPL_SPARSE_ZIG_PROCESSOR}")
  set(CMAKE_SYSTEM_NAME Linux)
  set(CMAKE_SYSTEM_PROCESSOR $ENV{MPL_SPARSE_ZIG_PROCESSOR})
endif()
set(CMAKE_C_COMPILER $ENV{MPL_SPARSE_ZIG_COMMANDS}/cc)
set(CMAKE_CXX_COMPILER $ENV{MPL_SPARSE_ZIG_COMMANDS}/c++)
set(CMAKE_AR $ENV{MPL_SPARSE_ZIG_COMMANDS}/ar)
set(CMAKE_RANLIB $ENV{MPL_SPARSE_ZIG_COMMANDS}/ranlib)
# What is asked of the compiler needs no program that runs.
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
# Programs of this machine; never its headers or libraries.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
