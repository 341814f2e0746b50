# Needs LibTorch: left out of builds without it.
set(unit_needs TRIMTAB_TORCH)
set(unit_libraries torch::cpu)
set(unit_builds_on_parent ON)
