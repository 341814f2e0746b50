set(unit_libraries PkgConfig::pcre2 PkgConfig::utf8proc)
