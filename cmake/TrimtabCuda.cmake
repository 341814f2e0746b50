# The CUDA kernels: kernels/*/*_cuda.cu as one library, trimtab::cuda_kernels, for sm_80 and sm_90. Compiling needs
# nvcc and no GPU.
find_program(TRIMTAB_NVCC nvcc HINTS ${CUDAToolkit_ROOT}/bin $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
if(NOT TRIMTAB_NVCC)
  message(FATAL_ERROR "TRIMTAB_CUDA=ON needs nvcc (CUDA Toolkit 13) and none was found: run scripts/setup --cuda, name the "
                      "toolkit with -DCUDAToolkit_ROOT=..., or build without it: -DTRIMTAB_CUDA=OFF")
endif()
set(CMAKE_CUDA_COMPILER ${TRIMTAB_NVCC})
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80 90)
endif()
enable_language(CUDA)
# CMake 3.25 does not know how to ask nvcc 13 for C++20, so kernels and their tests are C++17.
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
enable_testing()

# nvcc hands warnings on to g++; a bare -Wall it would refuse.
function(trimtab_cuda_settings target)
  set_target_properties(${target} PROPERTIES COMPILE_OPTIONS "" LINK_OPTIONS "")
  target_compile_options(${target} PRIVATE -Xcompiler=-Wall,-Wextra)
  target_include_directories(${target} PUBLIC ${CMAKE_SOURCE_DIR})
endfunction()

file(GLOB trimtab_cuda_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/kernels/*/*_cuda.cu)
# Sums over ranks need NCCL, which not every toolkit has; scripts/setup --cuda unpacks its wheel then.
get_filename_component(trimtab_cuda_root ${TRIMTAB_NVCC}/../.. ABSOLUTE)
find_path(TRIMTAB_NCCL_INCLUDE nccl.h HINTS ${trimtab_cuda_root}/include ${CMAKE_CURRENT_SOURCE_DIR}/.deps/nvidia/nccl/include)
find_library(TRIMTAB_NCCL NAMES nccl libnccl.so.2 HINTS ${trimtab_cuda_root}/lib64 ${trimtab_cuda_root}/lib ${CMAKE_CURRENT_SOURCE_DIR}/.deps/nvidia/nccl/lib)
if(NOT TRIMTAB_NCCL OR NOT TRIMTAB_NCCL_INCLUDE)
  list(FILTER trimtab_cuda_sources EXCLUDE REGEX "/rank_sum/")
  message(STATUS "NCCL was not found: kernels/rank_sum is left out; scripts/setup --cuda fetches it")
endif()
add_library(trimtab_cuda_kernels STATIC ${trimtab_cuda_sources})
add_library(trimtab::cuda_kernels ALIAS trimtab_cuda_kernels)
trimtab_cuda_settings(trimtab_cuda_kernels)
if(TRIMTAB_NCCL AND TRIMTAB_NCCL_INCLUDE)
  target_include_directories(trimtab_cuda_kernels SYSTEM PRIVATE ${TRIMTAB_NCCL_INCLUDE})
  target_link_libraries(trimtab_cuda_kernels PUBLIC ${TRIMTAB_NCCL})
endif()

# With TRIMTAB_KERNELS_ONLY the top-level file adds the tests itself and stops there.
if(TRIMTAB_TESTS AND NOT TRIMTAB_KERNELS_ONLY)
  add_subdirectory(tests/gpu)
endif()
