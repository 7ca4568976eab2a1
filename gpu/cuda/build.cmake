# SPDX-License-Identifier: Apache-2.0
# The CUDA device, and what binds it to the program that loads it (gpu/plugin.h).

# A hash of the version and of all that the two sides share. Comments count too: it is cheap to
# rebuild both.
set(interface gpu/plugin.h gpu/device.h gpu/device_ops.h core/dtype.h core/log.h core/status.h
  cpu_optim/factors.h cpu_optim/kernels.h include/strata/optim.h include/strata/strata.h)
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
