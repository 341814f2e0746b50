# LibTorch from the pinned PyPI wheel (torch==2.11.0), without its own CMake package, which wants a CUDA toolkit.
# Targets: torch::cpu (libtorch_cpu, libc10) and, when built for CUDA, torch::cuda. scripts/setup unpacks the wheels
# into .deps/; TRIMTAB_TORCH_ROOT may name another unpacked wheel (the folder that holds include/ and lib/).
set(TRIMTAB_TORCH_ROOT "" CACHE PATH "Folder of the unpacked torch wheel: .../torch")
find_path(TRIMTAB_TORCH_INCLUDE torch/csrc/api/include/torch/torch.h
          HINTS ${TRIMTAB_TORCH_ROOT}/include ${CMAKE_CURRENT_SOURCE_DIR}/.deps/torch/include NO_DEFAULT_PATH)
if(NOT TRIMTAB_TORCH_INCLUDE)
  message(FATAL_ERROR "LibTorch not found: run scripts/setup --torch (it unpacks torch==2.11.0 into .deps/), give "
                      "-DTRIMTAB_TORCH_ROOT=..., or build without it: -DTRIMTAB_TORCH=OFF")
endif()
get_filename_component(torch_root ${TRIMTAB_TORCH_INCLUDE}/.. ABSOLUTE)
get_filename_component(site ${torch_root}/.. ABSOLUTE)

# libtorch_cpu of this wheel needs cudart and cupti even in a CPU program.
set(torch_extra ${site}/nvidia/cu13/lib)
foreach(library cudart cupti)
  file(GLOB found ${torch_extra}/lib${library}.so.13*)
  if(NOT found)
    message(FATAL_ERROR "lib${library}.so.13 not found in ${torch_extra}: run scripts/setup --torch")
  endif()
endforeach()

# The wheel brings headers of another fmt, which would hide the system's (whose library is linked): the system's go first.
get_target_property(fmt_include fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/before_torch)
file(CREATE_LINK ${fmt_include}/fmt ${CMAKE_BINARY_DIR}/before_torch/fmt SYMBOLIC)

add_library(torch_cpu_imported INTERFACE)
add_library(torch::cpu ALIAS torch_cpu_imported)
target_include_directories(torch_cpu_imported SYSTEM INTERFACE ${CMAKE_BINARY_DIR}/before_torch
                           ${TRIMTAB_TORCH_INCLUDE} ${TRIMTAB_TORCH_INCLUDE}/torch/csrc/api/include)
target_compile_definitions(torch_cpu_imported INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
target_link_options(torch_cpu_imported INTERFACE -Wl,-rpath,${torch_root}/lib -Wl,-rpath,${torch_extra}
                    -Wl,-rpath-link,${torch_root}/lib -Wl,-rpath-link,${torch_extra} -Wl,--allow-shlib-undefined)
target_link_libraries(torch_cpu_imported INTERFACE ${torch_root}/lib/libtorch_cpu.so ${torch_root}/lib/libc10.so)

if(TRIMTAB_CUDA)
  add_library(torch_cuda_imported INTERFACE)
  add_library(torch::cuda ALIAS torch_cuda_imported)
  target_link_libraries(torch_cuda_imported INTERFACE torch::cpu ${torch_root}/lib/libtorch_cuda.so ${torch_root}/lib/libc10_cuda.so)
endif()
