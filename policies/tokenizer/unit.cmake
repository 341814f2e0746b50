list(APPEND unit_LIBRARIES PkgConfig::pcre2 PkgConfig::utf8proc)
