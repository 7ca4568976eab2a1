# SPDX-License-Identifier: Apache-2.0
# The CUDA device, and what binds it to the program that loads it (gpu/plugin.h).

# A hash of the version and of all that the two sides share. Comments count too: it is cheap to
# rebuild both.
set(interface gpu/plugin.h gpu/device.h gpu/device_ops.h core/dtype.h core/log.h
  core/optim_factors.h core/status.h gpu/cuda/formats.h include/strata/optim.h include/strata/strata.h)
set(text ${PROJECT_VERSION})
foreach(header ${interface})
  file(SHA256 ${CMAKE_SOURCE_DIR}/${header} hash)
  string(APPEND text " ${hash}")
endforeach()
string(SHA256 STRATA_BUILD_ID "${text}")
string(SUBSTRING ${STRATA_BUILD_ID} 0 16 STRATA_BUILD_ID)
list(TRANSFORM interface PREPEND ${CMAKE_SOURCE_DIR}/)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${interface})
file(RELATIVE_PATH below /${CMAKE_INSTALL_BINDIR} /${CMAKE_INSTALL_LIBDIR}/)
set_source_files_properties(gpu/plugin.c PROPERTIES COMPILE_DEFINITIONS
  "STRATA_BUILD_ID=\"${STRATA_BUILD_ID}\";STRATA_PLUGIN_BELOW=\"${below}/\"")

# ---- strata-cuda.so, beside the program -----------------------------------------------------------

set(STRATA_CUDA AUTO CACHE STRING "build the CUDA device: AUTO (where nvcc is found), ON, OFF")
set(archs 80 86 89 90 100 120)
if(DEFINED ENV{STRATA_CUDA_ARCHS})
  set(archs $ENV{STRATA_CUDA_ARCHS})
endif()
set(STRATA_CUDA_ARCHS ${archs} CACHE STRING "compute capabilities, as far as nvcc has them")
set(STRATA_HAS_CUDA OFF)
if(STRATA_CUDA STREQUAL ON OR (STRATA_CUDA STREQUAL AUTO AND
    NOT (STRATA_ASAN OR STRATA_UBSAN OR STRATA_TSAN)))
  find_program(STRATA_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin
    PATHS /usr/local/cuda)
  if(STRATA_NVCC)
    execute_process(COMMAND ${STRATA_NVCC} --list-gpu-code OUTPUT_VARIABLE codes RESULT_VARIABLE bad)
    if(bad)
      message(WARNING "${STRATA_NVCC} does not run: no CUDA device is built")
    else()
      set(STRATA_HAS_CUDA ON)
    endif()
  endif()
  if(STRATA_CUDA STREQUAL ON AND NOT STRATA_HAS_CUDA)
    message(FATAL_ERROR "STRATA_CUDA is ON and there is no nvcc that runs: set STRATA_NVCC or CUDA_HOME")
  endif()
endif()

if(STRATA_HAS_CUDA)
  set(flags -std=c++17 -O3 -lineinfo -I${CMAKE_SOURCE_DIR} -I${CMAKE_SOURCE_DIR}/include -D_GNU_SOURCE
    -DSTRATA_BUILD_ID="${STRATA_BUILD_ID}"
    -Xcompiler=-fPIC,-fvisibility=hidden,-fno-exceptions,-fno-rtti,-fstack-protector-strong
    -Xcompiler=-Wall,-Wextra,-Wno-unused-parameter)
  if(STRATA_WERROR)
    list(APPEND flags -Werror=all-warnings -Xcompiler=-Werror)
  endif()
  # No kernel asks which architecture it is for, so one PTX is compiled for all of them.
  set(code)
  foreach(arch ${STRATA_CUDA_ARCHS})
    if(codes MATCHES "sm_${arch}\n")
      list(APPEND code sm_${arch})
    endif()
  endforeach()
  list(APPEND code compute_80)
  string(REPLACE ";" "," list "${code}")
  set(gencode -gencode=arch=compute_80,code=[${list}])
  file(GLOB cuda_sources CONFIGURE_DEPENDS gpu/cuda/*.cu gpu/cuda/*.cc)
  set(objects)
  foreach(source ${cuda_sources})
    get_filename_component(name ${source} NAME)
    set(object ${CMAKE_BINARY_DIR}/cuda/${name}.o)
    set(device_flags)
    if(name MATCHES "cu$")
      # The PTX stays, for tests/checks/cuda_table.sh.
      set(device_flags ${gencode} --threads=0 --keep --keep-dir=${CMAKE_BINARY_DIR}/cuda
        -Xptxas=-v,-warn-spills)
    endif()
    add_custom_command(OUTPUT ${object}
      COMMAND sh ${CMAKE_SOURCE_DIR}/gpu/cuda/compile.sh ${CMAKE_BINARY_DIR}/cuda/${name}.log
        ${STRATA_NVCC} ${flags} ${device_flags} -MD -MF ${object}.d -c ${source} -o ${object}
      DEPENDS ${source} gpu/cuda/compile.sh DEPFILE ${object}.d VERBATIM COMMENT "nvcc ${name}")
    list(APPEND objects ${object})
  endforeach()
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/cuda)
  string(REPLACE ";" " " list "${code}")
  file(WRITE ${CMAKE_BINARY_DIR}/cuda/codes "${list}\n")
  # The runtime is inside, cuBLASLt is looked for at run time: it loads where no CUDA is installed.
  set(plugin ${CMAKE_BINARY_DIR}/strata-cuda.so)
  set(exports ${CMAKE_SOURCE_DIR}/gpu/cuda/exports.map)
  add_custom_command(OUTPUT ${plugin}
    COMMAND ${STRATA_NVCC} -shared -cudart static -o ${plugin} ${objects} -arch=sm_80
      -Xcompiler=-static-libgcc,-static-libstdc++
      -Xlinker --version-script=${exports} -Xlinker --no-undefined -Xlinker --as-needed
    DEPENDS ${objects} ${exports} VERBATIM COMMENT "nvcc strata-cuda.so")
  add_custom_target(strata_cuda ALL DEPENDS ${plugin})
  install(PROGRAMS ${plugin} DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
