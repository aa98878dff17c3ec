# SPDX-License-Identifier: Apache-2.0
# Defaults chosen before the compiler is looked at: build type, ccache and mold where present, -O2 for releases.

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, RelWithDebInfo or Debug" FORCE)
endif()

# -O2 compiles a good deal faster than -O3; the hot code is what the translator emits, not what g++ does.
foreach(language C CXX)
  if(NOT DEFINED CMAKE_${language}_FLAGS_RELEASE)
    set(CMAKE_${language}_FLAGS_RELEASE "-O2" CACHE STRING "Flags of release builds")
  endif()
endforeach()

find_program(RHEA_CCACHE ccache)
if(RHEA_CCACHE)
  foreach(language C CXX)
    if(NOT DEFINED CMAKE_${language}_COMPILER_LAUNCHER)
      set(CMAKE_${language}_COMPILER_LAUNCHER ${RHEA_CCACHE} CACHE STRING "Compiler launcher")
    endif()
  endforeach()
endif()

# Link with mold where it is installed: linking some dozens of test binaries is otherwise most of an incremental build.
macro(rhea_choose_linker)
  find_program(RHEA_MOLD mold)
  if(RHEA_MOLD)
    add_link_options(-fuse-ld=mold)
  endif()
endmacro()
