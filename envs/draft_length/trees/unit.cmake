set(unit_builds_on_parent ON)   # costs are those of the folder above
