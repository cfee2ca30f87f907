# The CUDA build: nvcc compiles the .cu files through custom commands and the C++ compiler links them with the
# static runtime. CMake's own CUDA language is not used: it looks for a whole toolkit, which the PyPI packages
# that scripts/cuda_toolchain.sh installs are not.
option(MOESAIC_CUDA "Build the CUDA backend" OFF)
set(MOESAIC_CUDA_TARGETS "hopper;ptx" CACHE STRING
  "What .cu files are compiled for: hopper (sm_90a), ptx (compute_80, compiled by the driver), all (sm_80, 86, 89, 100 too)")

if(MOESAIC_CUDA)
  execute_process(COMMAND ${CMAKE_SOURCE_DIR}/scripts/cuda_toolchain.sh
    OUTPUT_VARIABLE MOESAIC_NVCC OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  get_filename_component(cuda_root ${MOESAIC_NVCC} REALPATH)
  get_filename_component(cuda_root ${cuda_root}/../.. ABSOLUTE)
  find_library(MOESAIC_CUDART cudart_static REQUIRED NO_CACHE NO_DEFAULT_PATH
    PATHS ${cuda_root}/lib ${cuda_root}/lib64 ${cuda_root}/targets/x86_64-linux/lib)
  find_path(MOESAIC_CUDA_INCLUDE cuda_runtime.h REQUIRED NO_CACHE NO_DEFAULT_PATH
    PATHS ${cuda_root}/include ${cuda_root}/targets/x86_64-linux/include)
  message(STATUS "CUDA: ${MOESAIC_NVCC}")

  set(cuda_targets)
  if("hopper" IN_LIST MOESAIC_CUDA_TARGETS OR "all" IN_LIST MOESAIC_CUDA_TARGETS)
    list(APPEND cuda_targets -gencode=arch=compute_90a,code=sm_90a)
  endif()
  if("all" IN_LIST MOESAIC_CUDA_TARGETS)
    foreach(sm 80 86 89 100)
      list(APPEND cuda_targets -gencode=arch=compute_${sm},code=sm_${sm})
    endforeach()
  endif()
  if("ptx" IN_LIST MOESAIC_CUDA_TARGETS OR "all" IN_LIST MOESAIC_CUDA_TARGETS)
    list(APPEND cuda_targets -gencode=arch=compute_80,code=compute_80)
  endif()
  set(MOESAIC_NVCC_FLAGS -ccbin ${CMAKE_CXX_COMPILER} -std=c++20 -O3 --expt-relaxed-constexpr
    ${cuda_targets} -I${CMAKE_SOURCE_DIR}/src -Xcompiler=-fPIC,-Wall,-Wextra)
  find_program(MOESAIC_CCACHE ccache)
  set(MOESAIC_NVCC_LAUNCHER)
  if(MOESAIC_CCACHE)
    set(MOESAIC_NVCC_LAUNCHER ${MOESAIC_CCACHE})
  endif()

  # Host code that calls the runtime links this.
  add_library(moesaic_cudart INTERFACE)
  target_include_directories(moesaic_cudart SYSTEM INTERFACE ${MOESAIC_CUDA_INCLUDE})
  target_link_libraries(moesaic_cudart INTERFACE ${MOESAIC_CUDART} ${CMAKE_DL_LIBS} rt Threads::Threads)
endif()

# moesaic_cuda_objects(OUT source.cu...): compiles each and sets OUT to the object files.
function(moesaic_cuda_objects out)
  set(objects)
  foreach(source ${ARGN})
    file(RELATIVE_PATH name ${CMAKE_SOURCE_DIR} ${source})
    string(REPLACE "/" "_" name ${name})
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.o)
    add_custom_command(OUTPUT ${object}
      COMMAND ${MOESAIC_NVCC_LAUNCHER} ${MOESAIC_NVCC} ${MOESAIC_NVCC_FLAGS} -MD -MF ${object}.d -c ${source} -o ${object}
      DEPENDS ${source} DEPFILE ${object}.d VERBATIM COMMENT "nvcc ${name}")
    list(APPEND objects ${object})
  endforeach()
  set(${out} ${objects} PARENT_SCOPE)
endfunction()
