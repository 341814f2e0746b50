set(unit_builds_on_parent ON)   # sources of drafts, costs and rules are those of the folder above
