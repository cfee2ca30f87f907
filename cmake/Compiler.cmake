# One place for the flags every room is compiled with.
add_library(moesaic_flags INTERFACE)
target_compile_options(moesaic_flags INTERFACE -Wall -Wextra -Wpedantic -Wno-unused-parameter
  -fno-omit-frame-pointer -ffp-contract=off)
target_include_directories(moesaic_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
if(MOESAIC_SANITIZE)
  target_compile_options(moesaic_flags INTERFACE -fsanitize=${MOESAIC_SANITIZE}
    -fno-sanitize-recover=all)
  if(MOESAIC_SANITIZE MATCHES undefined)
    # They take time to compile, and a null pointer ends in AddressSanitizer's report as well.
    target_compile_options(moesaic_flags INTERFACE -fno-sanitize=null,vptr)
  endif()
  target_link_options(moesaic_flags INTERFACE -fsanitize=${MOESAIC_SANITIZE})
  target_compile_definitions(moesaic_flags INTERFACE MOESAIC_SANITIZE=1)
endif()

find_program(MOESAIC_CCACHE ccache)
if(MOESAIC_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${MOESAIC_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${MOESAIC_CCACHE})
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g1")
