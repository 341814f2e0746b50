# Needs LibTorch: left out of builds without it.
set(unit_needs TRIMTAB_TORCH)
set(unit_libraries torch::cpu)
if(TRIMTAB_CUDA)
  list(APPEND unit_libraries torch::cuda trimtab::cuda_kernels)
  set_source_files_properties(policies/language/ops/attention_trie_cuda.cpp PROPERTIES COMPILE_DEFINITIONS TRIMTAB_CUDA
                              INCLUDE_DIRECTORIES "${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES}")
endif()
