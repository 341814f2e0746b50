# Packages every unit may use (Debian 12), as one interface target. LibTorch is apart: see TrimtabTorch.cmake.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(HDF5 REQUIRED COMPONENTS C)
find_package(PkgConfig REQUIRED)
pkg_check_modules(hwy REQUIRED IMPORTED_TARGET libhwy)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
# Of policies/tokenizer alone.
pkg_check_modules(pcre2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(utf8proc REQUIRED IMPORTED_TARGET libutf8proc)

add_library(trimtab_third_party INTERFACE)
add_library(trimtab::third_party ALIAS trimtab_third_party)
target_include_directories(trimtab_third_party SYSTEM INTERFACE ${HDF5_C_INCLUDE_DIRS} ${YAML_CPP_INCLUDE_DIR})
target_link_libraries(trimtab_third_party INTERFACE Threads::Threads fmt::fmt nlohmann_json::nlohmann_json yaml-cpp
                      ${HDF5_C_LIBRARIES} PkgConfig::hwy PkgConfig::xxhash)

if(TRIMTAB_TORCH)
  include(TrimtabTorch)
endif()
if(TRIMTAB_TESTS)
  enable_testing()
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()
