# Needs LibTorch: left out of builds without it.
set(unit_needs TRIMTAB_TORCH)
set(unit_libraries torch::cpu)
if(TRIMTAB_CUDA AND TRIMTAB_NCCL AND TRIMTAB_NCCL_INCLUDE)
  list(APPEND unit_libraries torch::cuda trimtab::cuda_kernels)
  set_source_files_properties(trainers/language/device_sum.cpp PROPERTIES COMPILE_DEFINITIONS TRIMTAB_NCCL
                              INCLUDE_DIRECTORIES "${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES}")
endif()
