# SPDX-License-Identifier: Apache-2.0
# One static library per module, one test binary per module, one binary per fuzz target.

# rhea_module(<name> [SOURCES ...] [DEPS <rhea module or library> ...] [GENERAL_REGS_ONLY ...])
# Headers of a module are included by full path from src/. Sources listed under GENERAL_REGS_ONLY
# are compiled so that they never touch the vector registers (they run with the guest's in place).
function(rhea_module name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;GENERAL_REGS_ONLY" ${ARGN})
  if(ARG_SOURCES OR ARG_GENERAL_REGS_ONLY)
    add_library(rhea_${name} STATIC ${ARG_SOURCES} ${ARG_GENERAL_REGS_ONLY})
    set(scope PUBLIC)
  else()
    add_library(rhea_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(rhea_${name} ${scope} ${PROJECT_SOURCE_DIR}/src)
  # Clang refuses libstdc++'s headers with that option; it has one that keeps it from using those registers by itself.
  if(ARG_GENERAL_REGS_ONLY)
    set_source_files_properties(${ARG_GENERAL_REGS_ONLY} PROPERTIES
      COMPILE_OPTIONS "$<IF:$<CXX_COMPILER_ID:GNU>,-mgeneral-regs-only,-mno-implicit-float>")
  endif()
  foreach(dep IN LISTS ARG_DEPS)
    target_link_libraries(rhea_${name} ${scope} ${dep})
  endforeach()
  target_link_libraries(rhea_${name} ${scope} rhea_options)
  if(RHEA_COVERAGE AND name MATCHES "^(dbt|isa)$")
    target_compile_options(rhea_${name} PRIVATE --coverage)
  endif()
endfunction()

# rhea_test(<name> SOURCES ... DEPS ... [TIMEOUT seconds]): a GoogleTest binary <name>_test, registered with CTest
# under the label "unit"; tools/run_tests.py counts its test cases.
function(rhea_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS" ${ARGN})
  if(NOT BUILD_TESTING)
    return()
  endif()
  add_executable(${name}_test ${ARG_SOURCES})
  target_link_libraries(${name}_test PRIVATE ${ARG_DEPS} rhea_options GTest::gtest GTest::gmock GTest::gtest_main)
  target_include_directories(${name}_test PRIVATE ${PROJECT_SOURCE_DIR}/src)
  # g++ warns of `if (x) EXPECT_EQ(...)`, which GoogleTest's macros make safe.
  target_compile_options(${name}_test PRIVATE -Wno-dangling-else)
  add_test(NAME ${name} COMMAND ${name}_test)
  set_tests_properties(${name} PROPERTIES LABELS unit)
  if(ARG_TIMEOUT)
    set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
  endif()
endfunction()

# rhea_suite(<name> COMMAND ... [TIMEOUT seconds] [EXCLUSIVE]): anything whose last line of output is
# "N passed, N failed, N skipped", registered with CTest under the label "suite". EXCLUSIVE keeps the machine
# to itself while it runs (timing tests, several VMs at once).
function(rhea_suite name)
  cmake_parse_arguments(ARG "EXCLUSIVE" "TIMEOUT" "COMMAND" ${ARGN})
  if(NOT BUILD_TESTING)
    return()
  endif()
  add_test(NAME ${name} COMMAND ${ARG_COMMAND} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES LABELS suite)
  if(ARG_TIMEOUT)
    set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
  endif()
  if(ARG_EXCLUSIVE)
    set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
  endif()
endfunction()

# rhea_fuzz(<name> SOURCES ... DEPS ...): a libFuzzer binary <name>_fuzz (only with -DRHEA_FUZZ=ON and clang).
function(rhea_fuzz name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  if(NOT RHEA_FUZZ)
    return()
  endif()
  add_executable(${name}_fuzz ${ARG_SOURCES})
  target_link_libraries(${name}_fuzz PRIVATE ${ARG_DEPS} rhea_options)
  target_include_directories(${name}_fuzz PRIVATE ${PROJECT_SOURCE_DIR}/src)
  target_link_options(${name}_fuzz PRIVATE -fsanitize=fuzzer)
  if(NOT TARGET fuzzers)
    add_custom_target(fuzzers)
  endif()
  add_dependencies(fuzzers ${name}_fuzz)
endfunction()
