# SPDX-License-Identifier: Apache-2.0
# Sources of the guest processor's system semantics; included by src/dbt/CMakeLists.txt.
set(RHEA_DBT_SYSTEM_SOURCES
  system/control.cpp
  system/debug_registers.cpp
  system/descriptor_tables.cpp
  system/descriptors.cpp
  system/events.cpp
  system/execute.cpp
  system/far.cpp
  system/far_return.cpp
  system/fast_call.cpp
  system/hypercalls.cpp
  system/io.cpp
  system/legacy.cpp
  system/linear.cpp
  system/misc.cpp
  system/msr.cpp
  system/operands.cpp
  system/paging.cpp
  system/paravirtual.cpp
  system/segments.cpp
  system/smm.cpp
  system/stack.cpp
  system/state_instructions.cpp
  system/strings.cpp
  system/task_switch.cpp
  system/x87_environment.cpp
)
set(RHEA_DBT_SYSTEM_TESTS
  system/control_test.cpp
  system/debug_registers_test.cpp
  system/events_test.cpp
  system/far_test.cpp
  system/legacy_test.cpp
  system/machine_fake_test.cpp
  system/paging_test.cpp
  system/segments_test.cpp
  system/smm_test.cpp
  system/state_instructions_test.cpp
  system/strings_test.cpp
  system/system_fuzz.cpp
  system/system_stress_test.cpp
  system/task_switch_test.cpp
)

# These run while the guest's vector registers are live: besides -mgeneral-regs-only (set by rhea_module),
# nothing may call libc's string functions, which use them. COMPILE_FLAGS adds to COMPILE_OPTIONS.
set(rhea_dbt_system_flags "-fno-builtin")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  string(APPEND rhea_dbt_system_flags
    " -fno-tree-loop-distribute-patterns -mstringop-strategy=rep_8byte -minline-all-stringops")
endif()
set_source_files_properties(${RHEA_DBT_SYSTEM_SOURCES} PROPERTIES COMPILE_FLAGS "${rhea_dbt_system_flags}")

# A processor without a translator: the fake runtime's services stand in for runtime/services.cpp.
rhea_test(dbt_system SOURCES ${RHEA_DBT_SYSTEM_TESTS} DEPS rhea_dbt rhea_cpu rhea_isa rhea_io rhea_memory rhea_testing)
rhea_fuzz(dbt_system SOURCES system/system_fuzz.cpp system/machine_fake_test.cpp
  DEPS rhea_dbt rhea_cpu rhea_isa rhea_io rhea_memory rhea_testing GTest::gtest)
if(BUILD_TESTING AND NOT RHEA_SANITIZE)
  add_test(NAME dbt_general_registers
    COMMAND ${CMAKE_COMMAND} -DOBJDUMP=${CMAKE_OBJDUMP} "-DOBJECTS=$<TARGET_OBJECTS:rhea_dbt>"
            -P ${CMAKE_CURRENT_SOURCE_DIR}/system/check_objects.cmake)
endif()
