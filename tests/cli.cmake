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
    strata_test(${name} ${script} 120 "" bash ${script} $<TARGET_FILE:strata>
      $<TARGET_FILE:cli_json> $<TARGET_FILE:train_api>)
  endforeach()
endif()
