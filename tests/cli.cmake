# SPDX-License-Identifier: Apache-2.0
# The program as its users meet it: tests/cli_NAME.sh and tests/bench_NAME.sh, each a process of bash.
# The same lines as in a test_NAME.c set label and limit.
if(TARGET strata)
  if(NOT TARGET train_api)
    add_subdirectory(${CMAKE_SOURCE_DIR}/examples ${CMAKE_BINARY_DIR}/examples)
  endif()
  add_executable(cli_json ${CMAKE_CURRENT_LIST_DIR}/cli_json.c)
  target_link_libraries(cli_json PRIVATE PkgConfig::JANSSON)

  file(GLOB cli_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/cli_*.sh
    ${CMAKE_CURRENT_LIST_DIR}/bench_*.sh)
  list(FILTER cli_tests EXCLUDE REGEX "cli_util\\.sh$")
  foreach(script ${cli_tests})
    get_filename_component(name ${script} NAME_WE)
    file(STRINGS ${script} head LIMIT_COUNT 30)
    set(label quick)
    set(timeout 120)
    if("${head}" MATCHES "Label: +([a-z]+)")
      set(label ${CMAKE_MATCH_1})
    endif()
    if("${head}" MATCHES "Timeout: +([0-9]+)")
      set(timeout ${CMAKE_MATCH_1})
    endif()
    math(EXPR timeout "${timeout} * ${slowdown}")
    add_test(NAME ${name} COMMAND bash ${script} $<TARGET_FILE:strata> $<TARGET_FILE:cli_json>
      $<TARGET_FILE:train_api>)
    set_tests_properties(${name} PROPERTIES LABELS ${label} TIMEOUT ${timeout} SKIP_RETURN_CODE 77
      ENVIRONMENT "OMP_WAIT_POLICY=passive")
  endforeach()
endif()
