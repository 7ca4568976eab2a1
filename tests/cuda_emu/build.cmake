# SPDX-License-Identifier: Apache-2.0
# The CUDA device, compiled by the C++ compiler against the emulation in this folder: its tests,
# tests/test_cuda_NAME.cc, need no GPU and no CUDA. The first 30 lines of each are read as those of a
# test_NAME.c. Without a C++ compiler, with STRATA_CUDA=OFF, and under the thread sanitizer, which does
# not know the emulated threads' stacks, they are left out.
if(STRATA_TSAN OR STRATA_CUDA STREQUAL OFF)
  return()
endif()
include(CheckLanguage)
check_language(CXX)
if(NOT CMAKE_CXX_COMPILER)
  message(STATUS "no C++ compiler: the tests of the CUDA device are left out")
  return()
endif()
enable_language(CXX)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g")

file(GLOB device CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/gpu/cuda/*.cu ${CMAKE_SOURCE_DIR}/gpu/cuda/*.cc)
list(FILTER device EXCLUDE REGEX "/plugin\\.cc$")
file(GLOB emulation CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cc)
list(FILTER emulation EXCLUDE REGEX "/at_end\\.cc$")
foreach(source ${device})
  if(source MATCHES "cu$")
    set_source_files_properties(${source} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
  endif()
endforeach()
add_library(st_cuda_emu STATIC ${device} ${emulation})
target_compile_definitions(st_cuda_emu PUBLIC STRATA_CUDA_EMU
  PRIVATE STRATA_EMU_PTXAS="${CMAKE_BINARY_DIR}/cuda")
target_include_directories(st_cuda_emu BEFORE PUBLIC ${CMAKE_CURRENT_LIST_DIR})
target_link_libraries(st_cuda_emu PUBLIC st_gpu)

# What is the same on the emulation and on a GPU.
set_source_files_properties(cuda_header.cu PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
add_library(st_cuda_cases STATIC cuda_cases.cc cuda_header.cu)
target_link_libraries(st_cuda_cases PUBLIC st_cuda_emu st_cpu_optim)
target_compile_options(st_cuda_cases PUBLIC -Wno-missing-field-initializers) # defaults made for C

file(GLOB cuda_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/test_cuda_*.cc)
foreach(source ${cuda_tests})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE st_cuda_cases PkgConfig::CHECK)
  target_compile_definitions(${name} PRIVATE STRATA_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  strata_test(${name} ${source} 60 cuda_emu ${name})
endforeach()

# The engine on the emulation. The test stands between it and what it calls: tests/cuda_engine.c.
target_sources(test_cuda_engine PRIVATE cuda_engine.c)
target_link_libraries(test_cuda_engine PRIVATE st_model)
foreach(function st_device_wait st_device_record st_device_copy st_event_join st_aio_submit st_aio_reap
    st_hasher_submit st_exec_run st_exec_done st_executor_open)
  target_link_options(test_cuda_engine PRIVATE LINKER:--wrap=${function})
endforeach()
add_test(NAME cuda_engine_faults COMMAND test_cuda_engine)
set_tests_properties(cuda_engine_faults PROPERTIES LABELS "slow;cuda_emu" TIMEOUT 600
  ENVIRONMENT "CK_FORK=no;OMP_WAIT_POLICY=passive;CK_RUN_CASE=random;STRATA_EMU_FAULTS=200")

# What ./run gpu-check builds with nvcc, on the emulation: that it checks, tells and ends as it says.
file(GLOB gpu_check CONFIGURE_DEPENDS gpu_check/*.cc)
add_executable(gpu_check ${gpu_check} ${CMAKE_CURRENT_LIST_DIR}/at_end.cc)
target_link_libraries(gpu_check PRIVATE st_cuda_cases)
strata_test(cuda_gpu_check ${CMAKE_CURRENT_SOURCE_DIR}/cuda_gpu_check.sh 60 cuda_emu
  bash ${CMAKE_CURRENT_SOURCE_DIR}/cuda_gpu_check.sh $<TARGET_FILE:gpu_check>)

# The program with an emulated GPU: a copy of it beside a strata-cuda.so that is the emulation.
if(TARGET strata AND NOT (STRATA_ASAN OR STRATA_UBSAN))
  set(emulated ${CMAKE_BINARY_DIR}/tests/emulated)
  file(MAKE_DIRECTORY ${emulated})
  add_library(strata_cuda_emulated MODULE ${CMAKE_SOURCE_DIR}/gpu/cuda/plugin.cc
    ${CMAKE_CURRENT_LIST_DIR}/at_end.cc ${device} ${emulation})
  target_compile_definitions(strata_cuda_emulated PRIVATE STRATA_CUDA_EMU
    STRATA_EMU_PTXAS="${CMAKE_BINARY_DIR}/cuda" STRATA_BUILD_ID="${STRATA_BUILD_ID}")
  target_include_directories(strata_cuda_emulated BEFORE PRIVATE ${CMAKE_CURRENT_LIST_DIR})
  set_target_properties(strata_cuda_emulated PROPERTIES PREFIX "" OUTPUT_NAME strata-cuda
    LIBRARY_OUTPUT_DIRECTORY ${emulated} CXX_VISIBILITY_PRESET hidden)
  target_link_options(strata_cuda_emulated PRIVATE
    LINKER:--version-script=${CMAKE_SOURCE_DIR}/gpu/cuda/exports.map LINKER:--no-undefined)
  target_link_libraries(strata_cuda_emulated PRIVATE Threads::Threads m)
  add_custom_command(OUTPUT ${emulated}/strata DEPENDS strata
    COMMAND ${CMAKE_COMMAND} -E copy $<TARGET_FILE:strata> ${emulated}/strata)
  add_custom_target(strata_emulated ALL DEPENDS ${emulated}/strata strata_cuda_emulated)
  strata_test(cuda_plugin ${CMAKE_CURRENT_SOURCE_DIR}/cuda_plugin.sh 60 cuda_emu
    bash ${CMAKE_CURRENT_SOURCE_DIR}/cuda_plugin.sh ${emulated} ${CMAKE_BINARY_DIR})
  strata_test(cuda_train ${CMAKE_CURRENT_SOURCE_DIR}/cuda_train.sh 180 cuda_emu
    bash ${CMAKE_CURRENT_SOURCE_DIR}/cuda_train.sh ${emulated} $<TARGET_FILE:cli_json>)
endif()
