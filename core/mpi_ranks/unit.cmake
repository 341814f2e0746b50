# Ranks over Open MPI. Linked into the program and the tests that span units alone: no other test needs to load it.
set(unit_needs TRIMTAB_MPI)
set(unit_libraries MPI::MPI_C)
